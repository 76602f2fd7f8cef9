"""What the reference model is asked: families of requests in plain English, each with a seen and a held-out half."""
