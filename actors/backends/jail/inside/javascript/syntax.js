// What the text of a program says: which value is its last, what it imports and declares. The parser is that of Node's
// own console; what it does not understand is left as it is, for V8 to judge.
"use strict";
const acorn = require("internal/deps/acorn/acorn/dist/acorn");
const walk = require("internal/deps/acorn/acorn-walk/dist/walk");

const SYNTAX = { ecmaVersion: "latest", allowHashBang: true };
const MAX_PARSED = 2 ** 21; // characters; of a longer program, which holds data, nobody asks the value
const COMMONJS_NAMES = ["require", "module", "exports", "__filename", "__dirname"];

/** Names by which a console's programs reach what only modules have; of the same length, so that columns stay. */
const IMPORT = "imp$rt"; // for import(…)
const IMPORT_META = "import$meta"; // for import.meta

/** The tree of a program, a script or else a module; undefined if it is neither. */
function parse(code, options = {}) {
  for (const sourceType of ["script", "module"]) {
    try {
      return acorn.parse(code, { ...SYNTAX, allowReturnOutsideFunction: true, ...options, sourceType });
    } catch {
      // not as this, or not at all
    }
  }
  return undefined;
}

/** Where the last value of a program is in its text, if it ends with one. */
function lastValue(code) {
  const statements = (code.length <= MAX_PARSED && parse(code)?.body) || [];
  const last = statements.at(-1);
  if (last?.type !== "ExpressionStatement") return undefined;
  return {
    start: last.start,
    end: code[last.end - 1] === ";" ? last.end - 1 : last.end,
    isDirective: last.directive !== undefined,
    previousEnd: statements.at(-2)?.end ?? (code.startsWith("#!") ? last.start : 0),
  };
}

/**
 * The program as a console can run it, with what it imports and declares: `code` is as long in lines and columns, but
 * without its imports and exports; `imports` are to be bound before it runs.
 */
function forConsole(code) {
  const tree = parse(code, {
    allowImportExportEverywhere: true,
    allowAwaitOutsideFunction: true,
    allowReturnOutsideFunction: false,
    preserveParens: true,
  });
  const imports = [];
  const declared = [];
  if (tree === undefined) return { code, imports, declared };
  const edits = [];
  const blanks = (start, end) => code.slice(start, end).replace(/[^\r\n\u2028\u2029]/g, " ");
  const blank = (start, end) => edits.push([start, end, blanks(start, end)]);
  for (const node of tree.body) {
    switch (node.type) {
      case "ImportDeclaration":
      case "ExportAllDeclaration":
        imports.push(importOf(node));
        blank(node.start, node.end);
        break;
      case "ExportNamedDeclaration":
        if (node.source) imports.push({ ...importOf(node), names: [] });
        blank(node.start, node.declaration?.start ?? node.end);
        if (node.declaration) declared.push(...lexicalNames(node.declaration));
        break;
      case "ExportDefaultDeclaration":
        if (node.declaration.id) {
          blank(node.start, node.declaration.start);
          declared.push(...lexicalNames(node.declaration));
        } else {
          edits.push([node.start, node.declaration.start, blanks(node.start, node.declaration.start - 1) + "("]);
          edits.push([node.declaration.end, node.declaration.end, ")"]);
        }
        break;
      default:
        declared.push(...lexicalNames(node));
    }
  }
  walk.simple(tree, {
    ImportExpression: (node) => edits.push([node.start, node.start + "import".length, IMPORT]),
    MetaProperty: (node) => {
      if (node.meta.name === "import") edits.push([node.start, node.end, IMPORT_META.padEnd(node.end - node.start)]);
    },
  });
  return { code: edited(code, edits), imports, declared };
}

function importOf(node) {
  const names = (node.specifiers ?? []).map((specifier) => ({
    local: specifier.local.name,
    imported:
      { ImportDefaultSpecifier: "default", ImportNamespaceSpecifier: "*" }[specifier.type] ??
      nameOf(specifier.imported),
  }));
  const attributes = (node.attributes ?? []).map(({ key, value }) => [nameOf(key), value.value]);
  return { from: node.source.value, attributes: Object.fromEntries(attributes), names };
}

const nameOf = (node) => node.name ?? node.value;

function lexicalNames(node) {
  if (node.type === "ClassDeclaration") return [node.id.name];
  if (node.type !== "VariableDeclaration" || node.kind === "var") return [];
  return node.declarations.flatMap(({ id }) => boundNames(id));
}

function boundNames(pattern) {
  switch (pattern?.type) {
    case "Identifier":
      return [pattern.name];
    case "ObjectPattern":
      return pattern.properties.flatMap((property) => boundNames(property.argument ?? property.value));
    case "ArrayPattern":
      return pattern.elements.flatMap(boundNames);
    case "AssignmentPattern":
      return boundNames(pattern.left);
    case "RestElement":
      return boundNames(pattern.argument);
    default:
      return [];
  }
}

/** The text with each [start, end, replacement] made; none overlaps another. */
function edited(text, edits) {
  let result = text;
  for (const [start, end, replacement] of edits.sort(([a], [b]) => b - a)) {
    result = result.slice(0, start) + replacement + result.slice(end);
  }
  return result;
}

/** Whether a program is an ES module by its syntax, and which names of CommonJS it uses without declaring them. */
function moduleFacts(code) {
  const names = new Set();
  const tree = parse(code, { onToken: (token) => token.type.label === "name" && names.add(token.value) });
  const isModule = tree?.sourceType === "module";
  if (!isModule) return { isModule, free: [] };
  const declared = new Set(tree.body.flatMap(topLevelNames));
  return { isModule, free: COMMONJS_NAMES.filter((name) => names.has(name) && !declared.has(name)) };
}

function topLevelNames(node) {
  if (node.type === "ImportDeclaration") return node.specifiers.map(({ local }) => local.name);
  const declaration = node.declaration ?? node;
  if (declaration.type === "VariableDeclaration") return declaration.declarations.flatMap(({ id }) => boundNames(id));
  return declaration.id ? [declaration.id.name] : [];
}

module.exports = { IMPORT, IMPORT_META, forConsole, lastValue, moduleFacts, parse };
