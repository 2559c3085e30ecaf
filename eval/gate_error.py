"""How often does the gate err? Promotions of policies that gained nothing, power, and coverage of judged intervals.

    python eval/gate_error.py --out runs/gate-error --json gate-error.json

Generated shops whose truth is known, each met by one people after another: of every people a judge's calibration
slice, a gate and a test. Policies are lists by scores, of a true gain that is planted; panel, max-T, promotion and
verdict are the run's own. Shares have Wilson's 95% intervals. Resumable: answers of each shop are kept under --out.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/gate-error", seeds=tuple(range(25)))
    script.add_argument("--peoples", type=int, default=8, help="peoples that are judged in each shop (8)")
    script.add_argument("--power-peoples", type=int, default=1, help="of these, whom power is asked of (1)")
    script.run("llmrec.studies.gate_error:run_gate_error")
