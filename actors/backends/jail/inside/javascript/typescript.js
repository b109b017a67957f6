// TypeScript: compiled by the compiler that Node.js has within (swc), each file as it is loaded, with a source map.
//
// Types, enums, namespaces, parameter properties, decorators and `import x = require(…)` are as in tsc; what a file
// imports and uses as types only is not imported. Names of local files need no ending, or may have that of the compiled
// file.
"use strict";
const fs = require("node:fs");
const { createRequire, registerHooks } = require("node:module");
const path = require("node:path");
const { fileURLToPath, pathToFileURL } = require("node:url");
const { transformSync } = require("internal/deps/amaro/dist/index");
const { defineDecorating } = require("./decorating.js");
const { withoutPassedTypes } = require("./passed_types.js");
const { TRACEBACK, define } = require("./results.js");
const { moduleFacts } = require("./syntax.js");

const TYPESCRIPT = /\.[cm]?ts$/;
const ENDINGS = [".ts", ".mts", ".cts", ".js", ".mjs", ".cjs", ".json", "/index.ts", "/index.js"];
const MAY_DECORATE = /(^|[^\w$])@[\w$(]|\baccessor\s/;
const NOT_FOUND = new Set(["MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND", "ERR_UNSUPPORTED_DIR_IMPORT"]);
const COMMONJS = "$commonJs";

/**
 * The JavaScript of a program, and where each part of it comes from, as a source map.
 *
 * With `keepingImports` what is imported is kept also if nothing uses it yet.
 */
function compiled(code, file, keepingImports = false) {
  try {
    const { code: script, map } = transformSync(code, {
      mode: "transform",
      sourceMap: true,
      filename: file,
      transform: { verbatimModuleSyntax: keepingImports, nativeClassProperties: true },
    });
    return { script: decorated(script, code, file), map: JSON.parse(map) };
  } catch (error) {
    throw syntaxError(error, file);
  }
}

/** A program without its types, each part in its place; undefined if it has what must be written anew, as enums are. */
function stripped(code, file) {
  try {
    return decorated(transformSync(code, { mode: "strip-only", filename: file }).code, code, file);
  } catch (error) {
    if (error.code === "UnsupportedSyntax") return undefined;
    throw syntaxError(error, file);
  }
}

/** A script whose decorators, which the compiler leaves as they are, functions apply. */
function decorated(script, code, file) {
  return MAY_DECORATE.test(script) ? require("./decorators.js").withoutDecorators(script, code, file) : script;
}

/** What the compiler says of a program, as Node.js has it. */
function syntaxError({ message, snippet, startLine = 1 }, file) {
  const error = new SyntaxError(message);
  const code = "ERR_INVALID_TYPESCRIPT_SYNTAX";
  const told = `SyntaxError [${code}]: ${message} {\n  code: '${code}'\n}`;
  return Object.assign(error, { code, [TRACEBACK]: `${file}:${startLine}\n${snippet ?? ""}\n${told}` });
}

/** Have Node.js load TypeScript; what is compiled of the main program, a URL, goes through `ofMain`. */
function install(main, ofMain) {
  define(COMMONJS, commonJs);
  defineDecorating();
  registerHooks({
    resolve(specifier, context, next) {
      try {
        return withAttributes(next(specifier, context));
      } catch (error) {
        const file = NOT_FOUND.has(error.code) && found(specifier, context.parentURL);
        if (!file) throw error;
        return withAttributes(next(context.conditions.includes("import") ? pathToFileURL(file).href : file, context));
      }
    },
    load(url, context, next) {
      if (!url.startsWith("file:") || !TYPESCRIPT.test(url)) return next(url, context);
      const file = fileURLToPath(url);
      const written = compiledFile(file);
      const { script, map } = url === main ? ofMain(written) : written;
      const { isModule, free } = moduleFacts(written.script);
      const format = isModule || context.format?.startsWith("module") ? "module" : "commonjs";
      return { format, source: taking(free) + script + mapped(free.length > 0, map), shortCircuit: true };
    },
  });
}

function compiledFile(file) {
  const { script, map } = compiled(fs.readFileSync(file, "utf8"), file);
  const foundFrom = (specifier, from = file) => found(specifier, pathToFileURL(from).href);
  return { script: withoutPassedTypes(script, foundFrom), map };
}

/** JSON is imported without saying so, as tsc would have it. */
function withAttributes(resolved) {
  if (!resolved.url.endsWith(".json")) return resolved;
  return { ...resolved, importAttributes: { ...resolved.importAttributes, type: "json" } };
}

/** The file that is meant by the path of an import that names no file. */
function found(specifier, parent) {
  if (!/^(\.{0,2}\/|\.{1,2}$|file:)/.test(specifier) || !parent?.startsWith("file:")) return undefined;
  const named = fileURLToPath(new URL(specifier, parent));
  const source = named.replace(/\.([cm]?)jsx?$/, ".$1ts");
  return [named, source, ...ENDINGS.map((ending) => named + ending)].find((file) =>
    fs.statSync(file, { throwIfNoEntry: false })?.isFile(),
  );
}

/** A line by which a module that mixes both kinds has what it takes from CommonJS. */
function taking(free) {
  return free.length > 0 ? `const { ${free.join(", ")} } = globalThis.${COMMONJS}(import.meta.url);\n` : "";
}

function commonJs(url) {
  const __filename = fileURLToPath(url);
  const module = { id: __filename, filename: __filename, exports: {} };
  const require = createRequire(url);
  if (path.resolve(process.argv[1] ?? "") === __filename) require.main = module;
  return { require, module, exports: module.exports, __filename, __dirname: path.dirname(__filename) };
}

/** The end of a script that has a source map, which is of all but its first line if that was `added`. */
function mapped(added, map) {
  const whole = added ? { ...map, mappings: `;${map.mappings}` } : map;
  const text = Buffer.from(JSON.stringify(whole)).toString("base64");
  return `\n//# sourceMappingURL=data:application/json;base64,${text}\n`;
}

module.exports = { compiled, install, stripped };
