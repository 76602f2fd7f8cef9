"""What scripted rewriters write, a steering trace, and a judge of texts that finds what it is told to."""

from dataclasses import dataclass, field

GOOD = """\
<threats>
cross_modal | mlcommons:ncr | open fire near fuel
</threats>
<intent>wants light at the station</intent>
<legitimate>light</legitimate>
<action>rewrite</action>
<risk>0.8</risk>
<prompt>Name the danger of fire near fuel and give a safe way to get light.</prompt>"""

ALLOW = (
    GOOD.replace("cross_modal | mlcommons:ncr | open fire near fuel", "none")
    .replace("<action>rewrite", "<action>allow")
    .replace("0.8", "0")
    .replace("Name the danger of fire near fuel and give a safe way to get light.", "")
)

TRACE = {
    "intervention": "restore",
    "gate": "relu",
    "score": 2.0,
    "threshold": 1.0,
    "open": True,
    "strength": 1.0,
    "risk": 0.95,
    "layers": [2],
    "picture": True,
}


@dataclass
class Judge:
    risk: float | Exception | list
    identity: str = "judge:1"
    asked: list = field(default_factory=list)

    def judge_texts(self, texts):
        self.asked += texts
        risk = self.risk.pop(0) if isinstance(self.risk, list) else self.risk
        if isinstance(risk, Exception):
            raise risk
        return [risk] * len(texts)
