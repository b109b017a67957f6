"""JavaScript and TypeScript: their language host, and what it has Node.js run, which is the rest of this directory.

``program.js`` is preloaded where a single program runs, ``console.js`` is the console that runs a session's. Both use
``syntax.js``, ``typescript.js`` and ``results.js``; a console also ``evaluator.js`` and ``globals.js``.
"""
