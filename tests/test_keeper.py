"""What was kept comes back bit for bit, or not at all."""

import json
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import keeper as keeper_lib
from cl_imitate.interruption import InterruptedRunError, Notice, noticed
from cl_imitate.keeper import Keeper, Schedule
from tests.ensembles import assert_same

NEVER = Schedule(every_seconds=0.0)


def tree(step):
    return {
        "weights": jnp.full((3, 2), step + 0.1, jnp.bfloat16),
        "key": jax.random.key(step),
        "sums": np.full(4, step + 1e-12),  # float64, which a jax array would round
        "counts": np.array([2**40 + step]),
        "nothing": {},
    }


def like(facts):
    assert facts["step"] in (1, 2, 3, 4)
    return tree(0)


def kept(path, *steps, part="life"):
    keeper = Keeper(path, NEVER)
    for step in steps:
        keeper.save(part, step, tree(step), {"step": step})
    keeper.wait()
    return keeper


def assert_is(save, step):
    assert (save.step, save.facts) == (step, {"step": step})
    assert isinstance(save.tree["sums"], np.ndarray)
    found, expected = save.tree, tree(step)
    for name in ("key",):
        found = {**found, name: jax.random.key_data(found[name])}
        expected = {**expected, name: jax.random.key_data(expected[name])}
    assert_same(found, expected)


def test_the_newest_save_comes_back_bit_for_bit_and_two_are_kept(tmp_path):
    kept(tmp_path, 1, 2, 3)
    assert_is(Keeper(tmp_path, NEVER).load("life", like), 3)
    assert len(list((tmp_path / "life").glob("step_*.json"))) == Schedule().keep_last == 2
    assert not (tmp_path / "life" / "step_1").exists()
    assert Keeper(tmp_path, NEVER).load("another", like) is None


def files_of(path, step):
    return [file for file in sorted((path / "life" / f"step_{step}").rglob("*")) if file.stat().st_size]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_seen_whichever_it_is_and_the_save_before_is_used(tmp_path, damage, capsys):
    kept(tmp_path / "kept", 1, 2)
    files = [file for file in files_of(tmp_path / "kept", 2) if file.is_file()]
    assert len(files) >= 3
    for number, original in enumerate(files):
        path = tmp_path / str(number)
        shutil.copytree(tmp_path / "kept", path)
        file = path / original.relative_to(tmp_path / "kept")
        content = file.read_bytes()
        if damage == "flip":
            file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        elif damage == "truncate":
            file.write_bytes(content[: len(content) // 2])
        else:
            file.unlink()
        assert_is(Keeper(path, NEVER).load("life", like), 1)
        assert file.name in capsys.readouterr().err
    assert_is(Keeper(tmp_path / "kept", NEVER).load("life", like), 2)


def test_a_save_after_damaged_later_ones_is_kept(tmp_path):
    kept(tmp_path, 3, 4)
    for seal in (tmp_path / "life").glob("*.json"):
        seal.write_text(seal.read_text().replace("0", "1"))
    again = Keeper(tmp_path, NEVER)
    assert again.load("life", like) is None
    again.save("life", 1, tree(1), {"step": 1})
    again.wait()
    assert_is(Keeper(tmp_path, NEVER).load("life", like), 1)


def test_facts_that_were_altered_are_not_believed(tmp_path):
    kept(tmp_path, 1, 2)
    seal = tmp_path / "life" / "step_2.json"
    seal.write_text(seal.read_text().replace('"step": 2', '"step": 3'))
    assert_is(Keeper(tmp_path, NEVER).load("life", like), 1)


def test_a_save_without_a_seal_or_with_half_of_one_does_not_count(tmp_path):
    kept(tmp_path, 1, 2)
    seal = tmp_path / "life" / "step_2.json"
    text = seal.read_text()
    seal.write_text(text[: len(text) // 2])
    assert_is(Keeper(tmp_path, NEVER).load("life", like), 1)
    kept(tmp_path, 2)
    seal.unlink()
    assert_is(Keeper(tmp_path, NEVER).load("life", like), 1)
    again = Keeper(tmp_path, NEVER)
    again.save("life", 2, tree(2), {"step": 2})  # over what a kill left
    again.wait()
    assert_is(again.load("life", like), 2)


def test_what_is_kept_is_what_it_was_even_if_it_is_written_to_or_donated_meanwhile(tmp_path):
    overwrite = jax.jit(lambda x: jnp.zeros_like(x), donate_argnums=0)
    for step in range(1, 5):
        large, sums = jnp.full((1 << 20,), step, jnp.float32), np.full(1 << 20, float(step))
        keeper = Keeper(tmp_path, NEVER)
        keeper.save("life", step, {"large": large, "sums": sums}, {})
        sums[:] = 0.0
        for _ in range(10):
            large = overwrite(large)
        keeper.wait()
        found = keeper.load("life", lambda _: {"large": jnp.zeros(1 << 20), "sums": np.empty(1 << 20)})
        assert (found.tree["large"] == step).all()
        assert (found.tree["sums"] == step).all()


def test_if_no_save_is_whole_there_is_none(tmp_path):
    kept(tmp_path, 1, 2)
    for seal in (tmp_path / "life").glob("*.json"):
        seal.write_text("{}")
    assert Keeper(tmp_path, NEVER).load("life", like) is None


def test_a_finished_part_has_a_result_and_no_saves(tmp_path):
    keeper = kept(tmp_path, 1)
    arrays = {"a.b": np.arange(6.0).reshape(2, 3), "c": np.array([1], np.uint8)}
    keeper.finish("life", arrays, {"spent": 5})
    found, facts = Keeper(tmp_path, NEVER).finished("life")
    assert_same(found, arrays)
    assert facts == {"spent": 5}
    assert keeper.load("life", like) is None
    assert not list((tmp_path / "life").glob("step_*"))
    path = tmp_path / "life" / "result" / "arrays.npz"
    path.write_bytes(path.read_bytes()[:-1])
    assert keeper.finished("life") is None


def test_results_of_equal_arrays_are_equal_bytes(tmp_path):
    for name in ("one", "other"):
        Keeper(tmp_path / name, NEVER).finish("life", {"a": np.arange(5)}, {})
    one, other = (tmp_path / name / "life" / "result" / "arrays.npz" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_saves_are_due_by_steps_by_seconds_or_by_notice(tmp_path, monkeypatch):
    by_steps = Keeper(tmp_path / "steps", Schedule(every_seconds=0.0, every_steps=10))
    assert not by_steps.is_due("life", 9)
    assert by_steps.is_due("life", 10)
    by_steps.save("life", 10, tree(1), {"step": 1})
    by_steps.wait()
    assert not by_steps.is_due("life", 19)
    assert by_steps.is_due("another", 10)
    assert 120 in by_steps.steps("another", from_step=110)
    now = [0.0]
    monkeypatch.setattr("cl_imitate.keeper.time.monotonic", lambda: now[0])
    by_seconds = Keeper(tmp_path / "seconds", Schedule(every_seconds=5.0))
    assert not by_seconds.is_due("life", 10**9)
    now[0] = 5.0
    assert by_seconds.is_due("life", 1)
    by_seconds.save("life", 1, tree(1), {"step": 1})
    by_seconds.wait()
    assert not by_seconds.is_due("life", 2)
    notice = Notice()
    told = Keeper(tmp_path / "notice", Schedule(every_seconds=0.0, notice=notice))
    assert not told.is_due("life", 3)
    notice.number = signal.SIGTERM
    assert told.is_due("life", 3)
    with pytest.raises(InterruptedRunError, match=r"SIGTERM.*--resume") as stopped:
        told.save("life", 3, tree(3), {"step": 3})
    assert stopped.value.exit_code == 143
    assert_is(Keeper(tmp_path / "notice", NEVER).load("life", like), 3)


def test_a_first_signal_is_a_notice_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with noticed() as notice:
        assert not notice
        signal.raise_signal(signal.SIGTERM)
        assert notice
        assert notice.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before  # a second one ends the process
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_save_that_cannot_be_written_stops_with_the_folder_and_the_fix(tmp_path):
    keeper = kept(tmp_path, 1)
    (tmp_path / "blocked").write_text("a file where a folder should be")
    with pytest.raises(ValueError, match=r"blocked.*cannot be written.*full disk.*--resume"):
        keeper.save("blocked", 2, tree(2), {"step": 2})
    assert_is(Keeper(tmp_path, NEVER).load("life", like), 1)


def again_elsewhere(path, **changes):
    """As if the save at `path` had been made in other circumstances."""
    seal = path.with_suffix(".json")
    content = json.loads(seal.read_text())["content"]
    content["circumstances"] |= changes
    seal.write_text(json.dumps({"content": content, "sha256": keeper_lib._sha256_of(content)}))


def test_another_device_or_version_is_said_once_and_kept(tmp_path, capsys):
    kept(tmp_path, 1)
    again_elsewhere(tmp_path / "life" / "step_1", jax="0.0.1", num_devices=64)
    keeper = Keeper(tmp_path, NEVER)
    assert_is(keeper.load("life", like), 1)
    told = capsys.readouterr().err
    assert "last bits" in told
    assert "jax 0.0.1, now" in told
    assert "num_devices 64, now 2" in told
    continued = keeper.attempt.continued
    assert (continued["part"], continued["step"], continued["bits_may_differ"]) == ("life", 1, True)
    assert continued["was"]["num_devices"] == 64
    assert continued["is"]["num_devices"] == 2
    keeper.finish("life", {}, {})
    assert keeper.finished("life")
    assert capsys.readouterr().err == ""
    assert keeper.attempt.continued["was"]["num_devices"] == 64  # what differed once is not forgotten


def test_going_on_in_the_same_circumstances_is_kept_too(tmp_path, capsys):
    kept(tmp_path, 1, 2)
    keeper = Keeper(tmp_path, NEVER)
    assert keeper.attempt.continued is None
    keeper.load("life", like)
    assert keeper.attempt.continued["step"] == 2
    assert keeper.attempt.continued["bits_may_differ"] is False
    assert keeper.attempt.continued["was"] == keeper.attempt.continued["is"]
    assert capsys.readouterr().err == ""


def test_as_many_saves_are_kept_as_are_asked_for(tmp_path):
    for keep_last in (1, 3):
        keeper = Keeper(tmp_path / str(keep_last), Schedule(every_seconds=0.0, keep_last=keep_last))
        for step in (1, 2, 3, 4):
            keeper.save("life", step, tree(step), {"step": step})
        keeper.wait()
        found = sorted(path.stem for path in (tmp_path / str(keep_last) / "life").glob("*.json"))
        assert found == [f"step_{step}" for step in range(5 - keep_last, 5)]
    with pytest.raises(ValueError, match=r"--keep-saves = 0: at least 1"):
        Schedule(keep_last=0)


def test_what_saving_took_is_counted_without_what_goes_on_beside_it(tmp_path, monkeypatch):
    keeper = Keeper(tmp_path, NEVER)
    real = keeper_lib.checkpoint.save_async

    def slow(path, tree):
        wait = real(path, tree)
        time.sleep(0.2)  # what the caller waits for
        return lambda: (time.sleep(0.6), wait())  # what it does not

    monkeypatch.setattr(keeper_lib.checkpoint, "save_async", slow)
    keeper.save("life", 1, tree(1), {"step": 1})
    time.sleep(0.1)
    record = keeper.attempt.record
    assert record["saves"] == 1
    assert 0.2 <= record["saving_seconds"] < 0.6 < 0.2 + 0.6
    keeper.save("life", 2, tree(2), {"step": 2})  # has to wait for what is left of the first
    assert keeper.attempt.record["saving_seconds"] > 0.8
    assert keeper.attempt.record["saves"] == 2
    keeper.wait()


def test_the_time_to_the_first_steps_is_told_once_and_only_where_something_went_on(tmp_path, capsys):
    new = kept(tmp_path, 1)
    new.attempt.stepped()
    assert new.attempt.first_step_seconds is None
    assert capsys.readouterr().err == ""
    keeper = Keeper(tmp_path, NEVER)
    keeper.load("life", like)
    keeper.attempt.stepped()
    assert keeper.attempt.first_step_seconds > 0
    assert "first steps were done" in capsys.readouterr().err
    keeper.attempt.stepped()
    assert capsys.readouterr().err == ""


def test_one_that_does_not_write_counts_from_the_last_save_as_the_one_that_does(tmp_path):
    reader = Keeper(tmp_path, Schedule(every_seconds=0.0, every_steps=10), writes=False)
    assert not reader.is_due("life", 9)
    assert reader.is_due("life", 10)
    reader.save("life", 10, tree(1), {"step": 1})
    reader.finish("another", {}, {})
    assert not reader.is_due("life", 19)
    assert reader.is_due("life", 20)
    assert not list(tmp_path.iterdir())


def test_one_that_does_not_write_stops_at_a_notice_too(tmp_path):
    notice = Notice()
    reader = Keeper(tmp_path, Schedule(every_seconds=0.0, notice=notice), writes=False)
    notice.number = signal.SIGTERM
    with pytest.raises(InterruptedRunError):
        reader.save("life", 1, tree(1), {"step": 1})


def test_processes_stop_at_the_same_save_though_a_signal_comes_to_one_after_they_agreed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(keeper_lib.processes, "count", lambda: 2)
    monkeypatch.setattr(keeper_lib.processes, "exchange", lambda what, value: [value, [True, None]])
    notice = Notice()
    reader = Keeper(tmp_path, Schedule(every_seconds=0.0, notice=notice), writes=False)
    assert reader.is_due_together("life", 1)  # for the other one
    notice.number = signal.SIGTERM
    reader.save("life", 1, tree(1), {"step": 1})
    assert reader.is_due_together("life", 2)
    with pytest.raises(InterruptedRunError):
        reader.save("life", 2, tree(2), {"step": 2})
