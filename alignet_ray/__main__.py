"""`python -m alignet_ray`: the command line, where the script `alignet-ray` is not on the path."""

from alignet_ray.cli.main import main

if __name__ == "__main__":
    main()
