"""More requests than can be answered: some are refused at once, the others wait for a bounded number of batches."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

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
            asked = [
                pool.submit(one.client.post, "/v1/recommend", json={"user_id": f"user-{n % 12}", "k": 3})
                for n in range(240)
            ]
            got = [future.result() for future in asked]
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
