"""
Tests in virtual time: the product in one thread, with simulated servers, and faults at each step.

    test_time.py            the virtual clocks
    test_queue.py           the queues of the simulated broker
    test_beginnings.py      how processes start
    test_processes.py       kills, fault points and outcomes of single transactions
    test_lanes.py, test_plans.py    ordered consumers, and the reasons that a plan allows
    test_other_people.py    hostile rows, and rows that other people keep
    test_deployments.py     processes that end again and again, and workers of two versions
    test_operators.py       bindings that are removed, and limits of queues
    test_replays.py         copies of a replay that come back late
    test_crash_points.py    every step of the protocols as a crash point
    test_schedules.py       random schedules, and that a seed repeats its trace
    test_state_machine.py   sequences that Hypothesis chooses and shrinks

They may import `tests.reliability`, whose `simulation` is the simulator itself. No server and no
real time is needed: `pytest tests/simulation`.
"""
