from alignet_ray.report.about import use


def test_the_commands_name_the_registered_model() -> None:
    commands = use("student", "candidate")
    assert 'alignet_ray.load("models:/student@candidate")' in commands.python
    assert commands.shell.count("models:/student@candidate") == 3
