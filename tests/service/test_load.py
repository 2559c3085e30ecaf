"""More requests than can be answered: some are refused at once, the others wait for a bounded number of batches."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

from llmrec.service.batches import Batcher, Closed
from tests.service.conftest import until

BATCH, WAITING = 4, 8


def test_twice_what_can_be_answered(starting):
    with starting(batch=BATCH, waiting=WAITING, deadline_s=60.0) as one, ThreadPoolExecutor(48) as pool:
        batcher, batches, waited = one.service.batcher, [0], {}
        answer, submit = batcher._answer, batcher.submit

        def counted(jobs):
            batches[0] += 1
            time.sleep(0.02)  # a model that takes its time
            for job in jobs:
                waited[job.name] = batches[0] - waited[job.name]
            answer(jobs)

        def noted(job):
            waited[job.name] = batches[0]
            try:
                submit(job)
            except BaseException:
                del waited[job.name]
                raise

        batcher._answer, batcher.submit = counted, noted
        try:
            got = []
            for _ in range(3):  # a burst may be over before more is answered than the queue holds
                asked = [
                    pool.submit(one.client.post, "/v1/recommend", json={"user_id": f"user-{n % 12}", "k": 3})
                    for n in range(240)
                ]
                got += [future.result() for future in asked]
        finally:
            batcher._answer, batcher.submit = answer, submit
        statuses = Counter(response.status_code for response in got)
        assert set(statuses) == {200, 429}
        assert statuses[200] == len(waited) >= 20
        assert statuses[429] >= 20
        refused = [response for response in got if response.status_code == 429]
        assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
        # those before it in the queue, the batch that was running, and its own
        assert max(waited.values()) <= WAITING // BATCH + 1
        assert one.client.get("/ready").json()["ready"]
        assert one.ask(user_id="user-1", k=3)["source"] == "model"


class Asked:
    """What a batcher needs of a job."""

    claimed, group = False, 0

    def __init__(self):
        self.done = Future()


def cohorts(gather):
    """Sizes of batches where four come while four are answered, and those who were answered come again."""
    sizes, ended = [], threading.Event()
    batcher = None

    def come(count):
        for _ in range(count):
            with contextlib.suppress(Closed):
                batcher.submit(Asked())

    def answer(jobs):
        sizes.append(len(jobs))
        if len(sizes) == 1:
            come(4)
        time.sleep(0.02)
        if len(sizes) == 6:
            ended.set()
        # they are told, and then ask again
        threading.Timer(0.05, come, (len(jobs),)).start()

    batcher = Batcher(answer, batch=32, waiting=64, gather=gather)
    with batcher._there:
        come(4)
    assert ended.wait(30)
    batcher.close(10)
    return sizes[:6]


def test_two_cohorts_become_one_batch():
    assert cohorts(0.0)[:2] == [4, 4]
    assert cohorts(1_000.0) == [4, 8, 8, 8, 8, 8]


def test_a_lone_request_waits_for_nobody():
    answered = threading.Semaphore(0)
    batcher = Batcher(lambda jobs: answered.release(), batch=32, waiting=64, gather=1e9)
    try:
        for _ in range(3):
            batcher.submit(Asked())
            assert answered.acquire(timeout=30)
    finally:
        assert batcher.close(10)


def test_waiting_for_a_cohort_ends():
    """Of three who were answered one comes again: it is answered after the share of the batch's time."""
    sizes, answered = [], threading.Semaphore(0)

    def answer(jobs):
        sizes.append(len(jobs))
        time.sleep(0.02)
        answered.release()

    batcher = Batcher(answer, batch=32, waiting=64, gather=0.25)
    try:
        with batcher._there:
            for _ in range(3):
                batcher.submit(Asked())
        assert answered.acquire(timeout=30)
        batcher.submit(Asked())
        assert answered.acquire(timeout=30)
    finally:
        assert batcher.close(10)
    assert sizes == [3, 1]


def test_the_worker_sleeps_until_as_many_have_come_as_it_waits_for(monkeypatch):
    """Behind a batch of four the first one wakes it, the next two do not, the fourth does: it takes all of them."""
    sizes, answered = [], threading.Semaphore(0)

    def answer(jobs):
        sizes.append(len(jobs))
        time.sleep(0.001)
        answered.release()

    batcher = Batcher(answer, batch=32, waiting=64, gather=1e6)
    woken, notify = [], batcher._there.notify
    monkeypatch.setattr(batcher._there, "notify", lambda: (woken.append(len(batcher)), notify()))
    try:
        with batcher._there:
            for _ in range(4):
                batcher.submit(Asked())
        assert answered.acquire(timeout=30)
        woken.clear()
        batcher.submit(Asked())
        until(lambda: batcher._enough == 4)
        for _ in range(3):
            batcher.submit(Asked())
        assert answered.acquire(timeout=30)
        assert woken == [1, 4]
    finally:
        assert batcher.close(10)
    assert sizes == [4, 4]
