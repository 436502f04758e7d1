"""The recipes of `train_configs/`: at the top of a checkout, inside the package where it is installed from a wheel."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# A recipe imports another as `from train_configs import ...`, so the folder keeps its name.
FOLDERS = (PACKAGE / 'recipes' / 'train_configs', PACKAGE.parent / 'train_configs')


def folder() -> Path | None:
    """The folder of the recipes."""
    return next((path for path in FOLDERS if path.is_dir()), None)


def names() -> list[str]:
    """The names of all recipes."""
    place = folder()
    return sorted(path.stem for path in place.glob('*.py')) if place else []


def found(arguments: list[str]) -> list[str]:
    """The arguments with the name of a recipe after `--config` replaced by its file."""
    place = folder()
    if place is None:
        return arguments
    if str(place.parent) not in sys.path:
        sys.path.append(str(place.parent))
    replaced = list(arguments)
    for i, argument in enumerate(arguments):
        if argument.startswith('--config='):
            replaced[i] = f'--config={file_of(argument.removeprefix("--config="), place)}'
        elif arguments[max(i - 1, 0)] == '--config':
            replaced[i] = file_of(argument, place)
    return replaced


def file_of(config: str, place: Path) -> str:
    """The file of a recipe, given as its name, or as `train_configs/NAME.py` where there is no such file."""
    recipe = place / f'{Path(config).stem}.py'
    named = config == recipe.stem or (config == f'train_configs/{recipe.name}' and not Path(config).is_file())
    return str(recipe) if named and recipe.is_file() else config
