// Decorators, which neither V8 nor the compiler within Node.js knows: classes written so that functions apply them.
//
// They are the language's own, as TypeScript has them since version 5; or TypeScript's earlier ones, where a
// tsconfig.json asks for those, or a program has what only they have: decorated parameters, property descriptors.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const acorn = require("internal/deps/acorn/acorn/dist/acorn");
const walk = require("internal/deps/acorn/acorn-walk/dist/walk");
const { GIVEN_NAME } = require("./decorating.js");

const AT = new acorn.TokenType("@", { startsExpr: true });
const ONLY_EARLIER =
  /\b(Typed)?PropertyDescriptor\b|\b(Class|Method|Parameter|Property)Decorator\b|\bpropertyKey\b|\breflect-metadata\b/;
const SYNTAX = { ecmaVersion: "latest", allowHashBang: true, allowReturnOutsideFunction: true };

/** A parser that gives nodes their `decorators`, and says which fields are declared to be accessors. */
const Parser = acorn.Parser.extend(
  (Base) =>
    class extends Base {
      getTokenFromCode(code) {
        if (code !== "@".charCodeAt(0)) return super.getTokenFromCode(code);
        ++this.pos;
        return this.finishToken(AT);
      }

      /** What `parse` returns, with the decorators before it. */
      decorated(parse) {
        const decorators = [];
        while (this.type === AT) {
          const node = this.startNode();
          this.next();
          node.expression = this.type === acorn.tokTypes.parenL ? this.parseExprAtom() : this.parseDecoratorCall();
          decorators.push(this.finishNode(node, "Decorator"));
        }
        const node = parse();
        if (node && decorators.length > 0) (node.declaration ?? node).decorators = decorators;
        return node;
      }

      parseDecoratorCall() {
        const { start, startLoc } = this;
        let node = this.parseIdent(true);
        while (this.eat(acorn.tokTypes.dot)) {
          const member = this.startNodeAt(start, startLoc);
          Object.assign(member, { object: node, property: this.parseIdent(true), computed: false, optional: false });
          node = this.finishNode(member, "MemberExpression");
        }
        if (!this.eat(acorn.tokTypes.parenL)) return node;
        const call = this.startNodeAt(start, startLoc);
        Object.assign(call, {
          callee: node,
          arguments: this.parseExprList(acorn.tokTypes.parenR, true),
          optional: false,
        });
        return this.finishNode(call, "CallExpression");
      }

      parseStatement(...args) {
        return this.type === AT ? this.decorated(() => super.parseStatement(...args)) : super.parseStatement(...args);
      }

      parseExportDefaultDeclaration() {
        return this.decorated(() => super.parseExportDefaultDeclaration());
      }

      parseExprAtom(...args) {
        return this.type === AT ? this.decorated(() => super.parseExprAtom(...args)) : super.parseExprAtom(...args);
      }

      parseMaybeDefault(...args) {
        return this.type === AT
          ? this.decorated(() => super.parseMaybeDefault(...args))
          : super.parseMaybeDefault(...args);
      }

      parseClassElement(...args) {
        return this.decorated(() => {
          const word = /^\s*(static\s+)?(accessor)[ \t]+[\w$#]/.exec(this.input.slice(this.start));
          if (word === null) return super.parseClassElement(...args);
          const at = this.start + word[0].indexOf(word[2]);
          this.input = this.input.slice(0, at) + " ".repeat(word[2].length) + this.input.slice(at + word[2].length);
          if (word[1] === undefined) {
            this.pos = at;
            this.nextToken();
          }
          return Object.assign(super.parseClassElement(...args), { isAccessor: true, accessorAt: at });
        });
      }
    },
);

/** A script of TypeScript, `source`, without the decorators that it has. */
function withoutDecorators(script, source, file) {
  const tree = parsed(script);
  if (tree === undefined) return script;
  const classes = [];
  walk.full(tree, (node) => /^Class(Declaration|Expression)$/.test(node.type) && classes.push(node));
  const touched = classes.filter(isTouched);
  const earlier = touched.some(hasDecoratedParameters) || ONLY_EARLIER.test(source) || isAskedForEarlier(file);
  const edits = new Edits(script);
  for (const node of touched) (earlier ? rewriteEarlier : rewrite)(node, edits);
  return edits.made();
}

function parsed(script) {
  for (const sourceType of ["script", "module"]) {
    try {
      return Parser.parse(script, { ...SYNTAX, sourceType });
    } catch {
      // V8 will say
    }
  }
  return undefined;
}

const parameters = (element) => element.value?.params ?? [];
const hasDecoratedParameters = ({ body }) => body.body.some((element) => parameters(element).some((p) => p.decorators));
const isDecorated = (element) => element.decorators || parameters(element).some((parameter) => parameter.decorators);
const isTouched = ({ decorators, body }) => decorators || body.body.some((it) => isDecorated(it) || it.isAccessor);

function isAskedForEarlier(file) {
  for (let directory = path.dirname(path.resolve(file)); ; directory = path.dirname(directory)) {
    const config = path.join(directory, "tsconfig.json");
    if (fs.existsSync(config)) return /"experimentalDecorators"\s*:\s*true/.test(fs.readFileSync(config, "utf8"));
    if (directory === path.dirname(directory)) return false;
  }
}

/** Changes of a text that leave its lines where they are. */
class Edits {
  #made = [];

  constructor(text) {
    this.text = text;
  }

  of({ start, end }) {
    return this.text.slice(start, end);
  }

  replace(start, end, replacement) {
    this.#made.push([start, end, replacement]);
  }

  blank({ start, end }) {
    this.replace(start, end, this.text.slice(start, end).replace(/[^\n]/g, " "));
  }

  insert(at, text) {
    this.replace(at, at, text);
  }

  made() {
    // From the end on. At one place, what is inserted comes before what is replaced, and the first of it first.
    const last = this.#made.toReversed().sort((one, other) => other[0] - one[0] || other[1] - one[1]);
    return last.reduce((text, [start, end, by]) => text.slice(0, start) + by + text.slice(end), this.text);
  }

  /** The decorators of a node as the text of an array; where they were is blank. */
  taken(node) {
    const texts = (node.decorators ?? []).map(({ expression }) => `(${this.of(expression).replace(/\n/g, " ")})`);
    for (const decorator of node.decorators ?? []) this.blank(decorator);
    return `[${texts.join(", ")}]`;
  }

  /** The name of an element as the text of an expression. */
  nameOf({ key, computed }) {
    if (computed) return `(${this.of(key)})`;
    return key.type === "Literal" ? this.of(key) : JSON.stringify(this.of(key));
  }
}

function kindOf({ type, kind, isAccessor }) {
  if (type === "PropertyDefinition") return isAccessor ? "accessor" : "field";
  return { get: "getter", set: "setter" }[kind] ?? "method";
}

/** Decorators of the language: members are decorated first of all static ones, in the order in which they stand. */
function rewrite(node, edits) {
  const name = nameOfClass(node, edits);
  const elements = [];
  for (const element of node.body.body) {
    const kind = kindOf(element);
    const number = elements.length;
    const changed = element.decorators && `${name}.#$.value(${number}, this, `;
    if (kind === "accessor") rewriteAccessor(element, name, changed, edits);
    if (!element.decorators) continue;
    if (kind === "field") passValue(element, changed, edits);
    elements.push(`["${kind}", ${edits.nameOf(element)}, ${element.static}, ${edits.taken(element)}]`);
  }
  const begun = elements.length > 0 ? ` #$begun = ${name}.#$.begin(this);` : "";
  const call = `$decorateMembers(this, ${edits.taken(node)}, [${elements.join(", ")}])`;
  if (begun || node.decorators) edits.insert(node.body.start + 1, ` static #$ = ${call};${begun}`);
  if (node.decorators) wrapClass(node, name, "$decorateClass(", ")", edits);
}

/** TypeScript's earlier decorators: all are applied once the class is there. */
function rewriteEarlier(node, edits) {
  const name = nameOfClass(node, edits);
  const elements = [];
  let ofConstructor = "[]";
  for (const element of node.body.body) {
    const kind = kindOf(element);
    const ofParameters = `[${parameters(element)
      .map((parameter) => edits.taken(parameter))
      .join(", ")}]`;
    if (kind === "accessor") rewriteAccessor(element, name, undefined, edits);
    if (element.kind === "constructor") ofConstructor = ofParameters;
    else if (isDecorated(element)) {
      const facts = [`"${kind}"`, edits.nameOf(element), element.static, edits.taken(element), ofParameters];
      elements.push(`[${facts.join(", ")}]`);
      if (kind === "field" && !element.static && !element.computed) assign(element, elements.length, edits);
    }
  }
  const rest = `[${elements.join(", ")}], ${edits.taken(node)}, ${ofConstructor}`;
  wrapClass(node, name, `$decorateEarlier(`, `, ${rest})`, edits);
}

function nameOfClass(node, edits) {
  if (node.id) return node.id.name;
  edits.insert(node.start + "class".length, ` ${GIVEN_NAME}`);
  return GIVEN_NAME;
}

/** Have a class be replaced by what a call with it as an argument returns. */
function wrapClass(node, name, before, after, edits) {
  if (node.type === "ClassDeclaration" && node.id) {
    edits.insert(node.end, ` void (${name} = ${before}${name}${after});`);
    return;
  }
  edits.insert(node.decorators?.[0].start ?? node.start, before); // on the line of what may be a `return`
  edits.insert(node.end, after);
}

function passValue({ key, value, computed }, call, edits) {
  if (value === null) {
    edits.insert(computed ? edits.text.indexOf("]", key.end) + 1 : key.end, ` = ${call}undefined)`);
  } else {
    edits.insert(value.start, call);
    edits.insert(value.end, ")");
  }
}

/** A field that is to be set, and not defined, as the classes of earlier TypeScript do. */
function assign({ key, value, end }, number, edits) {
  if (value === null) {
    edits.blank({ start: key.start, end: edits.text[end - 1] === ";" ? end : key.end });
  } else {
    edits.replace(key.start, value.start, `#$set${number} = (this[${edits.nameOf({ key })}] = `);
    edits.insert(value.end, ")");
  }
}

function rewriteAccessor({ key, value, accessorAt, end, static: isStatic }, ofClass, call, edits) {
  const name = edits.of(key);
  const held = `#$held_${name.replace("#", "")}`;
  const [form, home] = isStatic ? ["static ", ofClass] : ["", "this"];
  edits.replace(accessorAt, key.end, held);
  if (call) passValue({ key, value, computed: false }, call, edits);
  const close = edits.text[end - 1] === ";" ? "" : ";";
  edits.insert(end, `${close} ${form}get ${name}() { return ${home}.${held}; }`);
  edits.insert(end, ` ${form}set ${name}(value) { ${home}.${held} = value; }`);
}

module.exports = { withoutDecorators };
