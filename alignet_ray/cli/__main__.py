"""`python -m alignet_ray.cli`."""

from alignet_ray.cli.main import main

if __name__ == "__main__":
    main()
