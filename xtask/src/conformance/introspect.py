# Prints what QEMU's schema compiler would put into introspection, with conditions undecided:
# every item of a list as [condition, value]. Arguments: the folder of its scripts, the schema.
import json
import sys

sys.path.insert(0, sys.argv[1])

from qapi import introspect, schema


def plain(node):
    if isinstance(node, introspect.Annotated):
        return [node.ifcond.ifcond or None, plain(node.value)]
    if isinstance(node, list):
        return [plain(item) for item in node]
    if isinstance(node, dict):
        return {name: plain(value) for name, value in node.items()}
    return node


class Visitor(introspect.QAPISchemaGenIntrospectVisitor):
    def visit_end(self):
        # Types join the list while it is walked.
        for used in self._used_types:
            used.visit(self)
        json.dump(plain(self._trees), sys.stdout)


schema.QAPISchema(sys.argv[2]).visit(Visitor("", False))
