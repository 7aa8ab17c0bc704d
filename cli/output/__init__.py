"""How ``milpactl`` shows objects: tables, documents (json, yaml, name) and descriptions. Works on plain dicts, so that
thousands of objects are shown without building models of them."""
