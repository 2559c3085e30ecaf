"""What does a language model add over classic RL recommenders? One table, one world, one reward, one judge.

    llmrec demo --out runs/demo
    python eval/classic_rl.py --run runs/demo --out runs/classic --json classic.json

Q-learning, SARSA, DQN and A2C learn from the reward simulator at the states at which PPO drew its items; truth and
judge are asked at the end alone. The rows of the language model come from the run folder (and its .work beside it);
without --run they are left out and the data of `llmrec demo` are made under --out. The second table has sessions of
one item a turn with users who satiate and win or lose trust. Resumable: finished agents are kept under --out.
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

PARTS = ("one-step", "sessions")

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/classic", settings=False)
    script.add_argument("--run", type=Path, help="run folder whose language models stand in the table")
    script.add_argument("--seed", type=int, default=0, help="of the world, where there is no --run")
    script.add_argument("--transitions", type=int, default=100_000, help="training budget of every agent")
    script.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="which tables; all by default")
    script.add_argument("--session-transitions", type=int, default=30_000, help="the same in sessions")
    script.add_argument("--quick", action="store_true", help="a smoke run: a small world, 2,000 transitions")
    script.run("llmrec.studies.classic.study:run_classic")
