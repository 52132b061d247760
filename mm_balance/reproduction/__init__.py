"""Every run behind the tables of the paper and of the report, as one plan that can be stopped and continued.

``tables``: which rows there are; ``chosen``: options of methods that are not the declared defaults; ``plan``: rows times seeds as
jobs, and the settings that a job's run logs; ``estimate``: how long they take; ``pool``: worker processes; ``training``: one job in
one of them; ``command``: all together.
"""
