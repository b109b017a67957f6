// What a console's programs find defined: what a CommonJS module has, Node's own modules by name, and `import`.
"use strict";
const { Module, builtinModules, createRequire } = require("node:module");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { define } = require("./results.js");
const { IMPORT, IMPORT_META } = require("./syntax.js");

const FILE = "program.js"; // as which its programs are known to each other, in whatever directory they are

/** Define the globals, and return a function that imports modules for a console's programs. */
function prepareGlobals() {
  let importModule = follow();
  const chdir = process.chdir.bind(process);
  process.chdir = (directory) => {
    chdir(directory);
    importModule = follow();
  };
  for (const name of builtinModules) {
    if (/^[a-z][a-z0-9_]*$/.test(name) && !(name in globalThis)) defineBuiltin(name);
  }
  // Messages of the global console also go to inspectors, which costs six times as much.
  const plain = new console.Console({ stdout: process.stdout, stderr: process.stderr });
  for (const name of Object.keys(plain)) console[name] = plain[name];
  const importing = (specifier, options) => importModule(specifier, options);
  define(IMPORT, importing);
  return importing;
}

/** Define what depends on the working directory, and return a function that imports modules from there. */
function follow() {
  const file = path.resolve(FILE);
  const module = new Module(".");
  module.filename = file;
  module.paths = Module._nodeModulePaths(process.cwd());
  module._compile("module.exports = (specifier, options) => import(specifier, options);", file);
  const importModule = module.exports;
  module.exports = {};
  const require = createRequire(file);
  require.main = process.mainModule = module;
  define("require", require);
  define("module", module);
  define("exports", module.exports);
  define("__filename", file);
  define("__dirname", path.dirname(file));
  define(IMPORT_META, {
    __proto__: null,
    dirname: path.dirname(file),
    filename: file,
    main: true,
    resolve: (specifier) => pathToFileURL(require.resolve(specifier)).href,
    url: pathToFileURL(file).href,
  });
  return importModule;
}

/** Define a module of Node's own, which is loaded where it is first used. */
function defineBuiltin(name) {
  Object.defineProperty(globalThis, name, {
    configurable: true,
    enumerable: false,
    get() {
      define(name, require(name));
      return globalThis[name];
    },
    set: (value) => define(name, value),
  });
}

module.exports = { prepareGlobals };
