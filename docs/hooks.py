"""How mkdocs makes the site of what is in the checkout.

Pages link by paths in the checkout, so that they hold on GitHub as well: here a link becomes one of the site if the
site has its target, else one to the repository. Beside `docs/` the site has the README, its first page, and the reports
of `benchmarks/results`. The reference has a page for each part of `api.md`, of the names that are listed there.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
BROUGHT = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results/**/*.md", "benchmarks/results/**/*.png")
_LINK = re.compile(r"\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_NAME = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in `docs/`, and the reference."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text()))
    for path in sorted(path for pattern in BROUGHT for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for uri, content in reference((ROOT / "docs" / "api.md").read_text()).items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links those of the site."""
    if page.file.src_uri == "api.md":
        markdown = _NAME.sub(r"| [`\1`][lightning_as.\1] |", markdown)
    return with_links(markdown, page.file.src_uri, set(files.src_uris), f"{config.repo_url}")


def reference(listing: str) -> dict[str, str]:
    """The pages of the reference, one for each section with a table of names: where it goes, and its Markdown."""
    pages = {}
    for section in re.split(r"^## ", listing, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        if names := _NAME.findall(body):
            text = re.sub(r"^\|.*\n?", "", body, flags=re.MULTILINE).strip()
            entries = "\n\n".join(f"::: lightning_as.{name}" for name in names)
            pages[f"api/{title.lower().replace(' ', '_')}.md"] = f"# {title}\n\n{text}\n\n{entries}\n"
    return pages


def with_links(markdown: str, uri: str, site: set[str], repository: str) -> str:
    """A page whose links are paths in the checkout, with links of the site and to the repository.

    Args:
        markdown: The page.
        uri: Where it is in the site.
        site: All that is there.
        repository: Address of the repository.
    """
    folder = posixpath.dirname(_in_checkout(uri))

    def replace(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link["target"]))
        target, anchor = _in_site(path), link["anchor"] or ""
        if target in site:
            return f"]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}{anchor})"
        if "://" not in link["target"] and (ROOT / path).exists():
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            return f"]({repository}/{kind}/main/{path}{anchor})"
        return link[0]  # elsewhere, or nowhere, of which mkdocs warns

    return _LINK.sub(replace, markdown)


def _in_checkout(uri: str) -> str:
    """What a page of the site is made from."""
    if uri == "index.md":
        return "README.md"
    if uri.startswith("api/"):
        return "docs/api.md"
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri


def _in_site(path: str) -> str:
    """Where a file of the checkout is in the site, if it is there."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")
