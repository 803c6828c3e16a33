from dataclasses import fields

from alignet_ray.config import Config
from alignet_ray.training.recipe import Recipe, student_recipe, teacher_recipe


def test_a_students_recipe_is_its_section_by_name():
    section = Config().replace(distill__lr=1e-3, distill__ema_decay=0.9).distill
    recipe = student_recipe(section, seed=7)
    assert (recipe.lr, recipe.ema_decay, recipe.tau, recipe.seed) == (1e-3, 0.9, "auto", 7)
    for field in fields(Recipe):
        if hasattr(section, field.name):
            assert getattr(recipe, field.name) == getattr(section, field.name)


def test_warm_up_is_a_share_of_all_updates_or_their_number():
    distill = Config().replace(distill__steps=200).distill
    assert student_recipe(distill.model_copy(update={"warmup": 0.1}), 0).warmup_steps == 20
    assert student_recipe(distill.model_copy(update={"warmup": 30}), 0).warmup_steps == 30


def test_a_network_teachers_recipe_compares_human_dimensions_as_they_are():
    recipe = teacher_recipe(Config().replace(align__network__steps=30).align.network, seed=0)
    assert (recipe.objective, recipe.tau, recipe.warmup_steps, recipe.steps) == ("kld", 1.0, 3, 30)
