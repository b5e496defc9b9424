from common.page import html_page

TEMPLATE = """{% extends "page.html.j2" %}
{% from "table.html.j2" import table %}
{% block body %}<p>{{ text }}</p>{{ table([("a", text)], ("name", "value")) }}{% endblock %}
"""


def test_a_page_extends_the_shared_one_and_escapes_every_value(tmp_path):
    template = tmp_path / "x.html.j2"
    template.write_text(TEMPLATE)
    page = html_page(template, title="<i>t</i>", text="<b>&")
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>&lt;i&gt;t&lt;/i&gt;</title>" in page
    assert "<p>&lt;b&gt;&amp;</p>" in page
    assert '<tr><th scope="row">a</th><td>&lt;b&gt;&amp;</td></tr>' in page
    assert "<b>" not in page
