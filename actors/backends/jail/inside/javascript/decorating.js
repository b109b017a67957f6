// What applies decorators to a class; compiled programs call it by name.
"use strict";
const { define } = require("./results.js");

/** The name of a class that has none, for its own parts to call it by. */
const GIVEN_NAME = "$Class";

/** What of a property's descriptor a decorator is given, and may replace. */
const PARTS = { method: "value", getter: "get", setter: "set" };
const metadata = new WeakMap();
/** The decorators of classes whose members are decorated, and which themselves are not yet. */
const undecorated = new WeakMap();

/** Decorate a class's members, and return what its constructor and its fields call. */
function decorateMembers(target, decorators, members) {
  unname(target);
  undecorated.set(target, decorators);
  const initializers = { true: [], false: [] };
  const changes = members.map(([kind, name, isStatic, ofMember]) => {
    const context = {
      kind,
      name,
      static: isStatic,
      private: typeof name === "string" && name.startsWith("#"),
      metadata: metadataOf(target),
      access: accessTo(name),
      addInitializer: (initializer) => initializers[isStatic].push(initializer),
    };
    if (kind === "field") return decorateField(context, ofMember);
    return decorateProperty(isStatic ? target : target.prototype, context, ofMember);
  });
  for (const initializer of initializers.true) initializer.call(target);
  return {
    begin: (object) => initializers.false.forEach((initializer) => initializer.call(object)),
    value: (number, object, value) => changes[number].reduce((changed, change) => change.call(object, changed), value),
  };
}

/** Return what changes the first value of a field. */
function decorateField(context, decorators) {
  const returned = decorators.toReversed().map((decorator) => decorator(undefined, { ...context }));
  return returned.filter((change) => change !== undefined).toReversed();
}

function decorateProperty(home, context, decorators) {
  if (context.private) throw new SyntaxError(`decorators of a private ${context.kind} are not supported`);
  const descriptor = Object.getOwnPropertyDescriptor(home, context.name);
  const changes = [];
  for (const decorator of decorators.toReversed()) {
    if (context.kind === "accessor") {
      const { get, set } = descriptor;
      const { init, ...after } = decorator({ get, set }, { ...context }) ?? {};
      Object.assign(descriptor, after);
      if (init !== undefined) changes.unshift(init);
    } else {
      const part = PARTS[context.kind];
      descriptor[part] = decorator(descriptor[part], { ...context }) ?? descriptor[part];
    }
  }
  Object.defineProperty(home, context.name, descriptor);
  return changes;
}

function decorateClass(target) {
  const initializers = [];
  const context = {
    kind: "class",
    name: target.name,
    metadata: metadataOf(target),
    addInitializer: (initializer) => initializers.push(initializer),
  };
  const decorated = undecorated.get(target).reduceRight((it, decorator) => decorator(it, { ...context }) ?? it, target);
  for (const initializer of initializers) initializer.call(decorated);
  return decorated;
}

/** Take away the name that a class has been given to be called by. */
function unname(target) {
  if (target.name === GIVEN_NAME) Object.defineProperty(target, "name", { value: "", configurable: true });
}

function accessTo(name) {
  return {
    has: (object) => name in object,
    get: (object) => object[name],
    set: (object, value) => {
      object[name] = value;
    },
  };
}

function metadataOf(target) {
  if (!metadata.has(target)) metadata.set(target, Object.create(metadata.get(Object.getPrototypeOf(target)) ?? null));
  return metadata.get(target);
}

/** Decorate a class as TypeScript did before its version 5: members, each with its parameters, then the class. */
function decorateEarlier(target, members, decorators, ofParameters) {
  unname(target);
  const isStatic = ([, , is]) => is;
  for (const member of [...members.filter((it) => !isStatic(it)), ...members.filter(isStatic)]) {
    const [kind, name, , ofMember, ofItsParameters] = member;
    const home = isStatic(member) ? target : target.prototype;
    let descriptor = kind === "field" ? undefined : Object.getOwnPropertyDescriptor(home, name);
    for (const decorator of [...ofMember, ...forParameters(ofItsParameters)].toReversed()) {
      descriptor = decorator(home, name, descriptor) ?? descriptor;
    }
    if (descriptor !== undefined) Object.defineProperty(home, name, descriptor);
  }
  const all = [...decorators, ...forParameters(ofParameters)];
  return all.reduceRight((decorated, decorator) => decorator(decorated) ?? decorated, target);
}

/** Decorators of parameters as those of what has the parameters. */
function forParameters(ofParameters) {
  return ofParameters.flatMap((decorators, index) =>
    decorators.map((decorator) => (home, name) => {
      decorator(home, name, index);
    }),
  );
}

/** Give compiled programs these functions. */
function defineDecorating() {
  define("$decorateMembers", decorateMembers);
  define("$decorateClass", decorateClass);
  define("$decorateEarlier", decorateEarlier);
}

module.exports = { GIVEN_NAME, defineDecorating };
