from xml.etree.ElementTree import Element

from markdown import Markdown

class Treeprocessor:
    def __init__(self, md: Markdown | None = None) -> None: ...
    def run(self, root: Element) -> Element | None: ...
