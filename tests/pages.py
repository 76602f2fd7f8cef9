"""The pages' python blocks, run as a reader runs them: each after those above it, with nothing but what the page says."""

import ast
import builtins
import re

from langchain_core.outputs import ChatGeneration, ChatResult

from tests.agent_models import AgentModel, call, calling


class AnyChatModel(AgentModel):
    """Stands for the model that a page gets by `init_chat_model`, which wants a key; asked for a rewriting, it allows."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        if any(one["function"]["name"] == "Rewrite" for one in kwargs.get("tools", ())):
            said = calling(
                call("Rewrite", threats=[], intent="a kite", action="allow", risk=0.0, rewritten_prompt=None)
            )
            return ChatResult(generations=[ChatGeneration(message=said)])
        return super()._generate(messages, stop, run_manager, **kwargs)


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def undefined_names(code):
    """Return names that some code uses and nowhere makes; names inside functions count, called or not."""
    tree = ast.parse(code)
    names = [one for one in ast.walk(tree) if isinstance(one, ast.Name)]
    made = {one.id for one in names if not isinstance(one.ctx, ast.Load)} | set(dir(builtins))
    made |= {one.arg for one in ast.walk(tree) if isinstance(one, ast.arg)}
    made |= {
        one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    made |= {(one.asname or one.name).split(".")[0] for one in ast.walk(tree) if isinstance(one, ast.alias)}
    return {one.id for one in names} - made


def run_page(page, monkeypatch):
    """Run a page's blocks, and return the names that they leave."""
    monkeypatch.setattr("langchain.chat_models.init_chat_model", lambda *_, **__: AnyChatModel())
    names = {"__name__": "__page__"}
    for block in blocks_of(page):
        exec(compile(block, page.name, "exec"), names)  # noqa: S102 - the page's own code
    return names
