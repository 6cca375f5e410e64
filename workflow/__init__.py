"""From notebook sources to the published site.

``Snakefile`` has the steps, ``build`` is the command behind ``make book``.
"""

import sys

# If this package is there (JupyterLab brings it), jsonschema compiles its grammars at every start,
# for a second of each step of the workflow, which never checks an internationalised address.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

if sys.argv[:1] == ["-m"]:  # Python is looking for the module of `python -m workflow.<command>`
    from workflow import command, environment

    def _end(kind: object, error: BaseException, trace: object) -> None:
        command.tell(error)

    sys.excepthook = _end  # of what is raised before the command's own guard stands
    environment.enter(sys.orig_argv[-len(sys.argv)], sys.argv[1:])
