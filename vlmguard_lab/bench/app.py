"""`vlmguard-bench`: everything that is measured, one subcommand a measurement. What a command needs is imported when it runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from langchain_vlmguard.cli.group import OneLineErrors
from langchain_vlmguard.errors import extra
from vlmguard_lab.bench import page
from vlmguard_lab.bench.checkout import CheckoutCommand
from vlmguard_lab.bench.choices import PerformancePart, ServingPart
from vlmguard_lab.bench.outside import app as outside_tools
from vlmguard_lab.commands import listed

app = typer.Typer(
    cls=OneLineErrors,
    help="Measure again what the README and the pages say. Results go to docs/results, tables between their marks on the pages.",
    no_args_is_help=True,
    add_completion=False,
)
in_checkout = partial(app.command, cls=CheckoutCommand)
app.add_typer(outside_tools, name="outside-tools")

PerCell = Annotated[int, typer.Option("--n", min=1, help="Requests a cell.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampled requests.")]
Work = Annotated[Path, typer.Option(help="Finished parts; a stopped run goes on from here.")]
Results = Annotated[Path, typer.Option("--json", help="Write the results here.")]
OnlyPart = Annotated[list[PerformancePart] | None, typer.Option(help="Measure this part alone; repeat for more.")]
Jobs = Annotated[int, typer.Option(min=1, help="Parts measured at a time, a core each.")]


@in_checkout()
def architectures(
    families: Annotated[list[str] | None, typer.Argument(help="Families to try; all if none is named.")] = None,
) -> None:
    """Try every supported architecture with every capability, on tiny random models.

    Takes a few minutes, seconds a family; goes on after a stop. Families that are not named keep their rows. Writes
    docs/results/architectures.json and the table in docs/chat_model.md. Needs a checkout: the models are those of the tests.
    """
    from vlmguard_lab.bench import architectures as measurement

    measurement.run(families or ())


@app.command()
def pictures(
    folder: Annotated[Path, typer.Option(exists=True, file_okay=False, help="A folder of anybody's picture files.")],
    output: Annotated[Path, typer.Option("--json", help="Write the results here.")],
) -> None:
    """Read every file of a folder as the guard reads pictures: decoded, refused, crashed, slow, and how much memory it took.

    Takes some tenths of a second a file, each in a process of its own. Fails where a file breaks the reader.
    """
    from vlmguard_lab.bench import pictures as measurement

    measurement.run(folder, output)


@in_checkout()
def screening(n: PerCell = 200, seed: Seed = 0) -> None:
    """Count what adaptive rewriting clears without the rewriter, and how the cleared requests are answered.

    Takes about ten minutes; goes on after a stop. Writes docs/results/screening.json and the table in docs/rewriting.md.
    """
    from vlmguard_lab.bench import screening as measurement

    measurement.run(n, seed)


@in_checkout()
def faces(n: PerCell = 10, seed: Seed = 0) -> None:
    """Ask the same requests of the guard graph and of an agent with the middleware, and compare what leaves.

    Takes about ten minutes; goes on after a stop. Writes docs/results/faces.json and the table in docs/agents.md.
    """
    from vlmguard_lab.bench import faces as measurement

    measurement.run(n, seed)


@in_checkout()
def agents(turns: Annotated[int, typer.Option(min=20, help="Turns of the thread.")] = 100) -> None:
    """Measure what the guard costs an agent in a long thread, and how long it holds the event loop.

    Then compares what providers are sent, as `providers` does. Takes about three minutes. Wants the extra `providers`. Writes
    docs/results/agents.json and the table in docs/agents.md, and what `providers` writes.
    """
    with extra("providers"):
        from vlmguard_lab.bench.providers import report as wires
    from vlmguard_lab.bench import agents as measurement

    measurement.run(turns)
    wires.run()


@in_checkout()
def carriers() -> None:
    """Write down what the guard does about everything that carries content, as the code that does it says.

    Takes a second. Writes the table in docs/agent_rules.md.
    """
    from vlmguard_lab.bench import carriers as measurement

    measurement.run()


@in_checkout()
def fields() -> None:
    """Write down every field of a policy and of a verdict, as the classes describe them.

    Takes a second. Writes the tables in docs/fields.md.
    """
    from vlmguard_lab.bench import fields as measurement

    measurement.run()


@in_checkout()
def providers() -> None:
    """Hold one conversation through each provider's package, with the guard and without, and compare the requests.

    Takes two minutes; nothing leaves the machine. Wants the extra `providers`. Writes docs/results/providers.json, "providers" in
    docs/results/agents.json, and the table in docs/providers.md.
    """
    with extra("providers"):
        from vlmguard_lab.bench.providers import report as measurement

    measurement.run()


@in_checkout()
def serving(
    only: Annotated[list[ServingPart] | None, typer.Option(help="Measure this part alone; repeat for more.")] = None,
    callers: Annotated[int, typer.Option(min=1, help="Callers of load, faults and soak.")] = 50,
    load_minutes: Annotated[float, typer.Option(min=0.1, help="Length of the load.")] = 10.0,
    soak_minutes: Annotated[float, typer.Option(min=0.2, help="Length of the soak.")] = 30.0,
    examples: Annotated[int, typer.Option(min=1, help="Random answers and requests of the property.")] = 100_000,
    output: Results = page.SERVING,
) -> None:
    """Measure `vlmguard serve`: what it adds to an answer, a load, faults, its rules, random answers, a soak.

    Takes two and a half hours, best on a machine that does nothing else; finished parts are kept after a stop, and the random
    answers go on where they were. Parts that are not measured are kept. Writes docs/results/serving.json.
    """
    from vlmguard_lab.bench.endpoint import report as measurement

    measurement.run(only or (), callers, load_minutes, soak_minutes, examples, output)


@in_checkout()
def performance(
    only: OnlyPart = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs a measurement of the overhead.")] = 400,
    turns: Annotated[int, typer.Option(min=1, help="Pairs a measurement of the guard.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds a measurement of the throughput.")] = 5,
    output: Results = page.PERFORMANCE,
) -> None:
    """Time what serving costs: steering a token, the guard a turn, many callers at once, a fit, the import.

    Takes about an hour on two cores, best on a machine that does nothing else; goes on after a stop. Parts that are not
    measured are kept. Writes docs/results/performance.json and docs/images/performance.png.
    """
    from vlmguard_lab.bench import performance as measurement

    measurement.run(only or (), pairs, turns, rounds, output)


@in_checkout()
def instructions() -> None:
    """Count the processor instructions of one decoded token under every intervention, which no neighbour changes.

    Takes about five minutes. Needs valgrind and gcc. Writes "instructions" in docs/results/performance.json.
    """
    from vlmguard_lab.bench import instructions as measurement

    measurement.run()


@in_checkout()
def peers(pairs: Annotated[int, typer.Option(min=1, help="Pairs a measurement.")] = 60) -> None:
    """Time other steering packages and ChatHuggingFace on the same model.

    Takes about five minutes. Wants an environment that holds them, as their pins differ from this package's: `pip install
    steering-vectors nnsight repeng langchain-huggingface`; what is missing is named in the result. Writes "peers" in
    docs/results/performance.json.
    """
    from vlmguard_lab.bench import peers as measurement

    measurement.run(pairs)


@app.command()
def soak(minutes: Annotated[float, typer.Option(min=0.1, help="How long to go on.")] = 30) -> None:
    """Look for leaks, stuck requests and mixed-up answers under 16 callers who cancel, time out and send bad inputs.

    Takes as long as it is told to, and prints a line a minute. Writes nothing; exits with 1 if something is wrong.
    """
    from vlmguard_lab.bench import soak as measurement

    if not measurement.run(minutes).is_sound:
        raise typer.Exit(1)


@in_checkout()
def evidence(
    figstep: Annotated[Path | None, typer.Option(help="FigStep's folder: a CSV, and images/.", exists=True)] = None,
    mossbench: Annotated[Path | None, typer.Option(help="MOSSBench's folder: images/*.jpg.", exists=True)] = None,
    kind: Annotated[list[str] | None, typer.Option(help="A kind of hiding; repeat for more; all if none.")] = None,
    variants: Annotated[int, typer.Option(min=0, help="Pictures of each kind of hiding; 0 leaves them out.")] = 50,
    harmful: Annotated[
        int, typer.Option(min=0, help="Harmful drawn requests of the testbed; 0 leaves them out.")
    ] = 400,
    harmless: Annotated[int, typer.Option(min=0, help="Harmless drawn requests; 0 leaves them out.")] = 200,
    output: Results = page.RESULTS / "evidence.json",
    *,
    pages: Annotated[bool, typer.Option(help="Time usual pages, and try scripts.")] = True,
) -> None:
    """Measure what the evidence reader finds in pictures, and what judging it does to drawn requests.

    Takes about an hour and a half of one core, seconds a picture; goes on after a stop. Parts that are not measured are kept.
    Writes docs/results/evidence.json and the table in docs/content.md.
    """
    from vlmguard_lab.bench import evidence as measurement

    counts = {"variants": variants, "harmful": harmful, "harmless": harmless}
    measurement.run(figstep, mossbench, output, kinds=kind or (), pages=pages, **counts)


@in_checkout()
def early_judge(n: PerCell = 60, seed: Seed = 0) -> None:
    """Compare the judge of answers that reads early layers first with the one that reads all of them.

    Takes about ten minutes; goes on after a stop. Writes docs/results/early_judge.json and the table in docs/rewriting.md.
    """
    from vlmguard_lab.bench import early_judge as measurement

    measurement.run(n, seed)


@in_checkout()
def agent_scenarios(
    requests: Annotated[int, typer.Option(min=1, help="Conversations.")] = 500,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the results here; other stacks' are kept.")
    ] = None,
) -> None:
    """Run the shop assistant through mixed conversations, plain and guarded, sync and async, watching every stream.

    Takes about ten minutes; goes on after a stop. Prints what it found, and writes only the file that it is given: run it under
    several versions of LangChain on docs/results/agent_scenarios.json. Needs a checkout: the agent is in examples/.
    """
    from vlmguard_lab.bench import agent_scenarios as measurement

    measurement.run(requests, output)


@in_checkout()
def rewriter_transfer(
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="A frozen model; repeat for more; the testbed if none."),
    ] = None,
    ablation: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Another adapter for the testbed; repeat for more.")
    ] = None,
    adapter: Annotated[str, typer.Option(help="The rewriter's adapter.")] = "testbed",
    n: PerCell = 200,
    seed: Seed = 0,
    jobs: Jobs = 2,
    work: Work = page.WORK / "rewriter-transfer",
    output: Results = page.RESULTS / "rewriter_transfer.json",
) -> None:
    """Put one rewriter in front of frozen models: what it mends, what it costs, what each part of the guard adds.

    Takes about half an hour of one core for five models; goes on after a stop. Writes docs/results/rewriter_transfer.json and
    the tables in docs/rewriting.md; with another --json, that file alone. `make transfer` runs it with every target and ablation.
    """
    from vlmguard_lab.bench import rewriter_transfer as measurement

    targets = tuple(_named(target)) or (("testbed", "testbed"),)
    plan = measurement.Plan(targets, n, seed, adapter)
    measurement.run(plan, ablations=dict(_named(ablation)), jobs=jobs, work=work, output=output)


@in_checkout()
def evaluate(
    target: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="A model; repeat for more, testbed=testbed first.")
    ] = None,
    arms: Annotated[str, typer.Option(help="Arms, separated by commas; all but the slow ones if empty.")] = "",
    again: Annotated[str, typer.Option(help="Measure these arms' answers anew and keep all else.")] = "",
    kinds: Annotated[str, typer.Option(help="With --again, also: attack, suffixes.")] = "cells,conversations",
    wide: Annotated[int, typer.Option(min=1, help="Requests a cell and seed for the guards and the plain model.")] = 50,
    narrow: Annotated[int, typer.Option(min=1, help="Requests a cell and seed for the other arms.")] = 10,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1",
    attacked: Annotated[int, typer.Option(min=1, help="Requests attacked by pictures.")] = 48,
    suffixed: Annotated[int, typer.Option(min=1, help="Requests attacked by words behind them.")] = 12,
    jobs: Jobs = 2,
    work: Annotated[
        Path, typer.Option(help="Answers, logs and finished tasks; kept for more arms and targets.")
    ] = page.ROOT / "build" / "evaluation",
    *,
    publish_only: Annotated[bool, typer.Option("--publish-only", help="Draw figures and tables again.")] = False,
) -> None:
    """Measure every defence under every attack, on testbeds of several architectures.

    Takes about two hours of one core as `make evaluate` runs it; says how long the rest will take, and goes on after a stop.
    Writes docs/results/evaluation.json, the figures and the tables in docs/testbed_results.md,
    and the lines in docs/results.md and README.md.
    """
    from vlmguard_lab.bench.evaluation import run as measurement

    if publish_only:
        measurement.publish()
        return
    plan = measurement.plan_of(
        work,
        _named(target),
        listed(arms),
        again=listed(again),
        kinds=listed(kinds),
        wide=wide,
        narrow=narrow,
        seeds=[int(seed) for seed in listed(seeds)],
        attacked=attacked,
        suffixed=suffixed,
    )
    measurement.run(plan, jobs=jobs, again=bool(again))


@in_checkout()
def reference(
    checkpoint: Annotated[Path, typer.Option(help="The reference model.")] = page.ROOT / "build" / "reference",
    data: Annotated[
        Path | None, typer.Option(envvar="VLMGUARD_TEST_DATA", help="Folder of the public sets.", exists=True)
    ] = None,
    pictures: Annotated[Path, typer.Option(help="Folder of the labelled pictures.")] = page.ROOT
    / "build"
    / "reference-work",
    judge: Annotated[
        Path | None, typer.Option(help="Checkpoint before training that judges harm; phrases alone judge if none.")
    ] = None,
    arms: Annotated[str, typer.Option(help="Arms, separated by commas; all if empty.")] = "",
    families: Annotated[str, typer.Option(help="Families of requests, separated by commas; all if empty.")] = "",
    work: Work = page.WORK / "reference",
    output: Results = page.RESULTS / "reference.json",
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Few requests of each kind.")] = False,
    publish_only: Annotated[bool, typer.Option("--publish-only", help="Draw figures and tables again.")] = False,
) -> None:
    """Measure the reference model in plain English: what it refuses, what pictures do to that, and what defences mend.

    Takes about four hours on two cores, and with --quick well under one; goes on after a stop, and takes on further arms and
    families. Writes docs/results/reference.json, the figures and the tables in docs/reference.md; with another --json, that
    file alone.
    """
    from vlmguard_lab.bench.reference import run as measurement

    if publish_only:
        measurement.publish()
        return
    plan = measurement.plan_of(
        checkpoint, data, pictures, work, judge=judge, arms=listed(arms), families=listed(families), quick=quick
    )
    measurement.run(plan, output)


@in_checkout()
def reference_gate(
    checkpoint: Annotated[str, typer.Option(help="A model with directions, or a folder of vlmguard fit.")],
    data: Annotated[Path, typer.Option(envvar="VLMGUARD_TEST_DATA", help="Folder of the public sets.", exists=True)],
    split: Annotated[Literal["seen", "held_out"], typer.Option(help="Half of the sets; seen is for choosing.")] = (
        "held_out"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Most requests of a set.")] = None,
    work: Work = page.WORK / "reference-gate",
    output: Results = page.RESULTS / "reference_gate.json",
) -> None:
    """Measure what the gate opens on, its threshold frozen, behind system prompts, tools and history, and beside pictures.

    Rows carry set and `condition`. Takes a second or so a request and setting on one core, where the gate reads the request
    alone, and goes on after a stop. Pictures are not looked at. Writes the file of --json.
    """
    from vlmguard_lab.bench.reference import settings

    settings.run(checkpoint, data, work, output, split=split, limit=limit)


@in_checkout()
def vllm_env(to: Annotated[Path, typer.Option(help="Folder of the environment.")] = Path("build/vllm-env")) -> None:
    """Make an environment with vLLM, for `pytest -m vllm`. Writes a folder. Takes minutes, downloads gigabytes, and can go on."""
    from vlmguard_lab.bench import vllm_env as environment

    environment.build(to, typer.echo)


@in_checkout()
def vllm(
    n: Annotated[int, typer.Option("--n", min=1, help="Requests.")] = 500,
    work: Work = page.WORK / "vllm",
    output: Results = page.RESULTS / "vllm.json",
) -> None:
    """Compare vLLM's answers and gate scores with the local engine's, on the testbed. Run it in the environment of `vllm-env`.

    Takes minutes, most of them vLLM's start. Writes docs/results/vllm.json.
    """
    from vlmguard_lab.bench import vllm_equality as measurement

    measurement.run(n, work / "testbed", output, typer.echo)


@app.command()
def vllm_export(
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    model: Annotated[str, typer.Argument(help="A checkpoint's folder, or testbed.")] = "testbed",
) -> None:
    """Write a checkpoint with the names of weights that vLLM loads. Takes a second."""
    from vlmguard_lab.bench import vllm_env as environment

    typer.echo(environment.export(model, to))


@in_checkout()
def publish_demo() -> None:
    """Draw the demo's measured cells, and write their table in docs/results.md and the README's lines of results.

    Takes seconds. Reads docs/results/demo.json, which `vlmguard demo --full --json docs/results/demo.json` writes in five
    minutes. Writes docs/images/result.png, docs/results.md and README.md.
    """
    from vlmguard_lab.bench import publish_demo as publication

    publication.run()


def _named(given: list[str] | None) -> list[tuple[str, str]]:
    """Split `NAME=VALUE` arguments.

    Raises:
        BadParameter: One has no `=`.
    """
    pairs = [one.partition("=") for one in given or ()]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        msg = f"{wrong[0]!r} is not NAME=FOLDER"
        raise typer.BadParameter(msg)
    return [(name, value) for name, _, value in pairs]
