"""Run Sphinx as jupyter-book does: for a whole book, or for a few pages of one rendered before.

    python -m workflow.render BOOK TO TREES --cores 2        every page
    python -m workflow.render BOOK TO TREES --only PAGE …    these pages

Jupyter-book's own command works on one core and always from nothing. ``TREES`` keeps what the
second call needs of the first: Sphinx's memory of every page, and its index of the words. The
second call ends with the status :data:`UNFIT`, and no pages, if the rest of the book would look
different too.
"""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from docutils import nodes
from jupyter_book.config import get_final_config
from sphinx.application import Sphinx
from sphinx.cmd.build import handle_exception
from sphinx.environment import CONFIG_OK, BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import docutils_namespace, patch_docutils
from sphinx.util.parallel import SerialTasks

from workflow.command import Parser, command, cores

UNFIT = 75
"""Exit status: the pages cannot be rendered alone."""
WORDS = "words.pickle"
OF_WORDS = ("_titles", "_filenames", "_mapping", "_title_mapping", "_all_titles", "_index_entries")
"""What Sphinx's search index is made of; the file that it writes cannot be read back exactly."""
OF_ONE_RUN = {
    *("app", "config", "config_status", "config_status_extra", "doctreedir", "domains", "events"),
    *("get_outdated_files", "original_image_uri", "project", "ref_context", "settings"),
    *("temp_data", "_pickled_doctree_cache", "_write_doc_doctree_cache"),
}
"""What Sphinx's memory holds of a run, and no page of another shows."""
OF_ONE_PAGE = {"all_docs", "dependencies"}
"""What it holds of each page, and only the page itself shows."""


class UnfitError(Exception):
    """The rest of the book would look different too."""


def application(book: Path, to: Path, trees: Path, jobs: int) -> Sphinx:
    """Sphinx with the book's configuration; warnings, of references to nothing too, are errors."""
    config, _ = get_final_config(
        user_yaml=book.parent / "_config.yml",
        cli_config={
            "external_toc_path": (book / "_toc.yml").as_posix(),
            "latex_individualpages": False,
            "nitpicky": True,
        },
        sourcedir=book,
    )
    app = Sphinx(
        srcdir=book,
        confdir=None,
        outdir=to,
        doctreedir=trees,
        buildername="html",
        confoverrides=config,
        status=None,
        warning=sys.stderr,
        warningiserror=True,
        keep_going=True,
        parallel=jobs,
    )
    app.setup_extension("sphinx_multitoc_numbering")
    # Theorems and exercises cannot be read in parallel: their extensions merge nothing.
    builder: Any = app.builder
    builder._read_parallel = lambda pages, nproc: builder._read_serial(pages)
    app.is_parallel_allowed = lambda typ: True  # type: ignore[method-assign]
    return app


def render_all(app: Sphinx) -> int:
    """Render every page, and keep the index of words; returns the exit status."""
    app.builder.load_indexer = lambda _: _stem_once(app)  # type: ignore[attr-defined]
    app.build()
    index = app.builder.indexer  # type: ignore[attr-defined]
    words = {name: getattr(index, name) for name in OF_WORDS}
    (Path(app.doctreedir) / WORDS).write_bytes(pickle.dumps(words))
    return app.statuscode


def render_few(app: Sphinx, pages: Sequence[str]) -> None:
    """Render these pages, with their images, and the index of words.

    Raises
    ------
    UnfitError
        If something that other pages show has changed, or Sphinx warned of anything.
    """
    env, builder = app.env, app.builder
    if env.config_status != CONFIG_OK or set(env.all_docs) != set(env.project.docnames):
        raise UnfitError("the configuration or the set of pages")
    before = shared(env)
    outdated = (set[str](), set(pages), set[str]())
    env.get_outdated_files = lambda config_changed: outdated  # type: ignore[method-assign]
    with logging.pending_warnings():
        builder.read()
    list(env.check_dependents(app, set(pages)))  # counts sections and figures again
    after = shared(env)
    if changed := [name for name in before | after if before.get(name) != after.get(name)]:
        raise UnfitError(", ".join(changed))
    env.check_consistency()
    builder.load_indexer = lambda _: _load_words(app, pages)  # type: ignore[attr-defined]
    builder.finish_tasks = SerialTasks()
    builder.parallel_ok = False
    builder.write(pages, [], "specific")
    builder.copy_image_files()  # type: ignore[attr-defined]
    builder.dump_search_index()  # type: ignore[attr-defined]
    if app._warncount:
        raise UnfitError("warnings")


def _stem_once(app: Sphinx) -> None:
    """Let the index find the stem of a word once, not once a page."""
    language = app.builder.indexer.lang  # type: ignore[attr-defined]
    language.stem = cache(language.stem)


def _load_words(app: Sphinx, pages: Sequence[str]) -> None:
    """Fill the index with the words of all pages but these."""
    index = app.builder.indexer  # type: ignore[attr-defined]
    for name, content in pickle.loads((Path(app.doctreedir) / WORDS).read_bytes()).items():
        if name in ("_mapping", "_title_mapping"):
            left = {word: where.difference(pages) for word, where in content.items()}
            content = {word: where for word, where in left.items() if where}
        else:
            content = {page: of for page, of in content.items() if page not in pages}
        setattr(index, name, content)


def shared(env: BuildEnvironment) -> dict[str, Any]:
    """What pages may show of other pages: titles, numbers, labels, citations and the like.

    Its parts compare equal if and only if they hold the same, wherever the files lie and in
    whatever order the pages were read.
    """
    known = {
        name: value
        for name, value in vars(env).items()
        if name not in OF_ONE_RUN | OF_ONE_PAGE and not name.startswith("_search_index")
    }
    known["metadata"] = {
        page: {key: value for key, value in of.items() if key != "wordcount"}
        for page, of in env.metadata.items()
    }
    known["images"] = {Path(image).name: use for image, use in env.images.items()}
    known |= {f"domain {name}": value for name, value in known.pop("domaindata").items()}
    pages = set(env.all_docs)
    return {name: _plain(value, pages) for name, value in known.items()}


def _plain(value: Any, pages: set[str]) -> Any:
    """A value in terms of text and tuples."""
    if isinstance(value, nodes.Node):
        return value.pformat()
    if isinstance(value, dict):
        found = [(_plain(key, pages), _plain(of, pages)) for key, of in value.items()]
        return tuple(sorted(found, key=repr))
    if isinstance(value, set | frozenset):
        return tuple(sorted((_plain(item, pages) for item in value), key=repr))
    if isinstance(value, list):  # in the order of a page's reading, and of the pages in any
        found = [_plain(item, pages) for item in value]
        return tuple(sorted(found, key=lambda item: _page_of(item, pages)))
    if isinstance(value, tuple):
        return tuple(_plain(item, pages) for item in value)
    if hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        return (type(value).__qualname__, _plain(vars(value), pages))
    return repr(value)


def _page_of(item: Any, pages: set[str]) -> str:
    """The first page that an item names."""
    if isinstance(item, tuple):
        return next(filter(None, (_page_of(part, pages) for part in item)), "")
    name = item[1:-1] if isinstance(item, str) else ""
    return name if name in pages else ""


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.render", description="Render pages with Sphinx.")
    parser.add_argument("book", type=Path, help="folder of the pages' sources")
    parser.add_argument("to", type=Path, help="folder to write the pages to")
    parser.add_argument("trees", type=Path, help="folder of what is remembered of them")
    parser.add_argument("--cores", type=cores, default=1, help="processes at a time")
    parser.add_argument("--only", nargs="+", help="render these pages of a book rendered before")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how Sphinx ends the processes that it forks
    app = None
    try:
        with patch_docutils(), docutils_namespace():
            folders = (options.book.resolve(), options.to.resolve(), options.trees.resolve())
            app = application(*folders, options.cores)
            if not options.only:
                return render_all(app)
            render_few(app, options.only)
            return 0
    except UnfitError as error:
        print(f"not alone: {error}", file=sys.stderr)
        return UNFIT
    except Exception as error:
        told = SimpleNamespace(pdb=False, verbosity=False, traceback=False)
        handle_exception(app, told, error, sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
