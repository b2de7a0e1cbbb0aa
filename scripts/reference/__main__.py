"""Write docs/reference. Usage: PYTHONPATH=scripts python -m reference"""

from __future__ import annotations

from reference.pages import FOLDER, PAGES


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
