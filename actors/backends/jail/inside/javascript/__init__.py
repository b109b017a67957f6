"""JavaScript and TypeScript: their language host, and what it has Node.js run, which is the rest of this directory.

``program.js`` is preloaded where a single program runs, and has ``last_value.js`` change it; ``console.js`` runs those
of a session, with ``evaluator.js`` and ``globals.js``. Both use ``results.js``, ``syntax.js`` and ``typescript.js``,
which has ``passed_types.js`` leave types out, and ``decorators.js`` write classes anew for ``decorating.js``.
"""
