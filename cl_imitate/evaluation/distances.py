"""What would have changed the answer, in words: how far each interval is from the bounds of its rule."""

from collections.abc import Mapping

from cl_imitate.config import Rules
from cl_imitate.evaluation.wording import ends_of, is_known

_NAMES = {
    "now": "NOW",
    "month": "MONTH (a later age asked for)",
    "process": "PROCESS",
    "later": "LATER",
    "elsewhere": "ELSEWHERE (new tasks)",
}


def would_change(verdict: Mapping, rules: Rules) -> list[str]:
    """What would have changed the answer: how far each interval is from its rule's bounds, a sentence a question.

    Of a void run: what it would have taken to have an answer.
    """
    if verdict["void"]:
        return _would_make_valid(verdict)
    found = []
    for name, one in verdict["questions"].items():
        if one["answer"] == "not run":
            continue
        if name == "elsewhere":
            found.append(_rungs_distance(one, rules))
        else:
            bounds = (
                (rules.parity, rules.parity)
                if name in ("now", "month")
                else (rules.learns_no, rules.learns_yes)
            )
            found.append(_distance(_NAMES[name], one, bounds))
    return found


def _distance(name: str, one: Mapping, bounds: tuple[float, float]) -> str:
    """How far an interval is from `bounds`, below which it would be a no, and above which a yes."""
    answer, ends = one["answer"], ends_of(one)
    if ends is None or answer not in _possible(ends, bounds):
        return (
            f"{name} is {answer} whatever its interval: {one.get('reason') or 'an end of it is not known'}."
        )
    (low, high), (no, yes) = ends, bounds
    if answer == "yes":
        short = f"{low:.2f}, were {low - yes:.2f} lower ({yes:g})"
        return f"{name} would stop being a yes if the lower end of its interval, {short}."
    if answer == "no":
        short = f"{high:.2f}, were {no - high:.2f} higher ({no:g})"
        return f"{name} would stop being a no if the upper end of its interval, {short}."
    besides = f"; {one['reason']}" if one.get("reason") else ""
    return (
        f"{name} is {answer}{besides}. It would be a yes if the lower end of its interval, {low:.2f}, were above "
        f"{yes:g}, and a no if the upper end, {high:.2f}, were below {no:g}."
    )


def _possible(ends: tuple[float, float], bounds: tuple[float, float]) -> tuple[str, ...]:
    """What an interval alone would say; another answer has a reason of its own."""
    if ends[0] > bounds[1]:
        return ("yes",)
    return ("no",) if ends[1] < bounds[0] else ("partial", "undecided")


def _rungs_distance(one: Mapping, rules: Rules) -> str:
    """ELSEWHERE needs every counted rung: the one that is furthest from a yes, and the one furthest from a no."""
    counted = [
        rung for rung in one["rungs"] if rung["counted"] and rung["rung"] not in ("0", "1") and ends_of(rung)
    ]
    if one["answer"] == "void" or not counted:
        return f"{_NAMES['elsewhere']} is {one['answer']}: {one['reason']}."
    bounds = (rules.learns_no, rules.learns_yes)
    weakest, strongest = (
        min(counted, key=lambda rung: rung["ci95"][0]),
        max(counted, key=lambda rung: rung["ci95"][1]),
    )
    if one["answer"] in ("yes", "no"):
        nearest = weakest if one["answer"] == "yes" else strongest
        return _distance(f"{_NAMES['elsewhere']}, by its nearest rung, {nearest['name']},", nearest, bounds)
    low, high = weakest["ci95"][0], strongest["ci95"][1]
    return (
        f"{_NAMES['elsewhere']} is partial: all {len(counted)} rungs that count must agree. It would be a yes if every "
        f"lower end were above {rules.learns_yes:g} (the lowest is {low:.2f}, of {weakest['name']}), and a no if every "
        f"upper end were below {rules.learns_no:g} (the highest is {high:.2f}, of {strongest['name']})."
    )


def _would_make_valid(verdict: Mapping) -> list[str]:
    gate = verdict["gate"]
    if gate["passed"] is not False:
        return [f"There would be an answer, if not for this: {reason}." for reason in verdict["void"]]
    needed, gain, wiped = gate["required"], gate["imitator_gain"], gate["wiped_gain"]
    share = gate["fraction_of_tasks_above_half"]
    least, most, tasks = needed["min_gain"], needed["max_wiped_gain"], needed["min_tasks_above_half"]
    lacks = []
    if is_known(gain) and gain < least:
        lacks.append(f"it recovers {gain:.2f} of the learner's gain, {least - gain:.2f} short of {least:g}")
    if is_known(wiped) and wiped > most:
        lacks.append(f"with a wiped context {wiped:.2f}, {wiped - most:.2f} above {most:g}")
    if is_known(share) and share < tasks:
        lacks.append(f"it is above half on {share:.0%} of tasks, {tasks - share:.0%} short of {tasks:.0%}")
    others = [reason for reason in verdict["void"] if not reason.startswith("the gate failed")]
    return [
        f"There would be an answer, had the gate been passed: {'; '.join(lacks) or 'its figures are not finite'}.",
        *(f"And if not for this: {reason}." for reason in others),
    ]
