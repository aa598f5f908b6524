"""What a check has found wrong: all of it is told at once, at its end."""

problems = []


def problem(text):
    problems.append(text)


def any_told(check):
    """Prints all problems, as those of the check of this name; whether there were any."""
    for text in problems:
        print(f"  {text}")
    if problems:
        print(f"{check}: {len(problems)} problems")
    return bool(problems)
