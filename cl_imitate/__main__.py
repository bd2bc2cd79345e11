"""`python -m cl_imitate`: the same as the command `cl-imitate`."""

from cl_imitate import cli

if __name__ == "__main__":
    cli.main()
