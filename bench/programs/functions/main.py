"""Functions of SeBS and FunctionBench, each with its own parameters; `FUNCTION` says which one this program is.

What a function imports and reads is done before the first call, as in their own runtimes; what it computes is done in the call. Answers
are checked: the same parameters give the same answer, but for what is random by design, of which only the form is fixed.
"""

import gzip
import io
import json
import math
import os
import random
from http.server import BaseHTTPRequestHandler, HTTPServer

DYNAMIC_HTML = """<!DOCTYPE html><html><head><title>Randomly generated data.</title></head><body class="container">
<p>Welcome {{username}}!</p><p>Requested random numbers:</p>
<ul>{% for number in numbers %}<li>{{number}}</li>{% endfor %}</ul></body></html>"""
CHAMELEON = """<table xmlns="http://www.w3.org/1999/xhtml" xmlns:tal="http://xml.zope.org/namespaces/tal">
<tr tal:repeat="row python: options['table']"><td tal:repeat="c python: row.values()"><span tal:define="d python: c + 1"
tal:attributes="class python: 'column-' + str(d)" tal:content="python: d"/></td></tr></table>"""


def dynamic_html():
    from jinja2 import Template

    template = Template(DYNAMIC_HTML)

    def call():
        page = template.render(username="Ada", numbers=random.sample(range(1_000_000), 1000))
        return {"items": page.count("<li>")}

    return call


def graph(of):
    import igraph

    def call():
        return of(igraph.Graph.Barabasi(10_000, 10))

    return call


def graph_pagerank():
    return graph(lambda made: {"ranks": len(made.pagerank())})


def graph_mst():
    return graph(lambda made: {"edges": made.spanning_tree(None, return_tree=False).__len__()})


def graph_bfs():
    return graph(lambda made: {"visited": len(made.bfs(0)[0])})


def float_operations():
    def call():
        total = 0.0
        for number in range(50_000):
            total += math.sin(number) + math.cos(number) + math.sqrt(number)
        return {"sum": round(total, 6)}

    return call


def pyaes_encryption():
    import pyaes

    key = b"\xa1\xf6%\x8c\x87}_\xcd\x89dHE8\xbf\xc9,"
    message = bytes(range(100)) * 10

    def call():
        encrypted = pyaes.AESModeOfOperationCTR(key).encrypt(message)
        return {"same": pyaes.AESModeOfOperationCTR(key).decrypt(encrypted) == message}

    return call


def chameleon_table():
    from chameleon import PageTemplate

    template = PageTemplate(CHAMELEON)
    table = [{str(column): column for column in range(10)} for _ in range(100)]
    template.render(options={"table": table[:1]})  # compiled at deploy, as where functions are served

    def call():
        return {"rows": template.render(options={"table": table}).count("<tr>")}

    return call


def linpack():
    import numpy

    def call():
        matrix = numpy.random.default_rng(1).random((200, 200)) - 0.5
        solved = numpy.linalg.solve(matrix, matrix.sum(axis=1))
        return {"right": bool(numpy.allclose(solved, 1))}

    return call


def matmul():
    import numpy

    def call():
        random_numbers = numpy.random.default_rng(1)
        product = random_numbers.random((200, 200)) @ random_numbers.random((200, 200))
        return {"sum": round(float(product.sum()), 3)}

    return call


def gzip_compression():
    text = b"".join(b"%d squared is %d\n" % (number, number * number) for number in range(20_000))

    def call():
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6) as file:
            file.write(text)
        return {"same": gzip.decompress(packed.getvalue()) == text}

    return call


FUNCTION = globals()[os.environ["FUNCTION"]]()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps(FUNCTION()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    HTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
