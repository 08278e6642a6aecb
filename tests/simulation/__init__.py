"""
Tests in virtual time: the product in one thread, with simulated servers, and faults at each step.

    test_time.py            the virtual clocks
    test_beginnings.py      how processes start
    test_processes.py       kills, fault points and outcomes of single transactions
    test_lanes.py, test_plans.py    ordered consumers, and the reasons that a plan allows
    test_crash_points.py    every step of the protocols as a crash point
    test_schedules.py       random schedules, and that a seed repeats its trace
    test_state_machine.py   sequences that Hypothesis chooses and shrinks

They may import `tests.reliability`, whose `simulation` is the simulator itself. No server and no
real time is needed: `pytest tests/simulation`.
"""
