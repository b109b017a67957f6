// The host of JavaScript and TypeScript: it runs programs one after another in one context, as Node's own console does.
//
// Requests come as JSON lines on one descriptor, answers go out as JSON lines on another; its arguments name both. A
// program has ended when its code has, and all that it left to do: timers, promises, requests. In a session servers may
// stay.
(() => {
  "use strict";
  const fs = require("node:fs");
  const path = require("node:path");
  const { createRequire, stripTypeScriptTypes } = require("node:module");
  const net = require("node:net");
  const { PassThrough } = require("node:stream");
  const repl = require("node:repl");
  const { pathToFileURL } = require("node:url");
  const util = require("node:util");
  const vm = require("node:vm");

  const [IN, OUT] = process.argv.splice(1).map(Number);
  const SERVERS = new Set(["TCPServerWrap", "PipeServerWrap", "PipeWrap", "TTYWrap"]);
  const LOOK_MS = 20;
  const PROGRAM = "<program>";
  const IMPORTED = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER;
  const { setInterval, clearInterval } = globalThis; // programs may replace theirs
  const exit = process.reallyExit.bind(process);

  const send = (message) => fs.writeSync(OUT, JSON.stringify(message) + "\n");
  const console_ = repl.start({
    prompt: "",
    input: new PassThrough(),
    output: new PassThrough(),
    terminal: false,
    useGlobal: true,
  });
  process.removeAllListeners("uncaughtException"); // the console's own, which would write to its output

  let running = null;

  function begin(request) {
    running = {
      failed: false,
      persistent: request.persistent,
      left: busy().length, // by earlier programs
      before: { ...process.env },
      names: Object.keys(request.env),
    };
    Object.assign(process.env, request.env);
    fs.closeSync(0);
    fs.openSync(request.stdin, "r"); // takes the lowest number that is free: 0
    let input;
    Object.defineProperty(process, "stdin", {
      configurable: true,
      get: () => (input ??= new fs.ReadStream(null, { fd: 0, autoClose: false })),
    });
    channel.unref();
    evaluate(request).then(
      (value) => {
        if (value !== undefined && running !== null) show(value, true);
        watch();
      },
      (error) => {
        fail(error);
        watch();
      },
    );
  }

  async function evaluate(request) {
    let code = request.code;
    if (request.language === "typescript") code = withoutTypes(code);
    try {
      return await inConsole(code);
    } catch (error) {
      if (error instanceof SyntaxError && /import statement|Unexpected token 'export'|import\.meta/.test(error.message)) {
        return asModule(code);
      }
      throw error;
    }
  }

  function withoutTypes(code) {
    const { emitWarning } = process;
    process.emitWarning = () => {}; // that this is new
    try {
      return stripTypeScriptTypes(code, { mode: "strip" });
    } finally {
      process.emitWarning = emitWarning;
    }
  }

  function inConsole(code) {
    let script;
    try {
      script = new vm.Script(code, { filename: PROGRAM, importModuleDynamically: IMPORTED });
    } catch (error) {
      if (/\bawait\b/.test(code)) return withAwait(code);
      throw error;
    }
    return script.runInThisContext({ breakOnSigint: true });
  }

  /** Node's console knows how to wait at the top of a program. */
  function withAwait(code) {
    return new Promise((resolve, reject) => {
      console_.eval(code + "\n", console_.context, PROGRAM, (error, value) => {
        if (error) reject(error instanceof repl.Recoverable ? error.err : error);
        else resolve(value);
      });
    });
  }

  /** A program with static imports is a module: what it names is its own. */
  async function asModule(code) {
    const file = path.join(process.cwd(), `.program-${process.pid}-${Date.now()}.mjs`);
    fs.writeFileSync(file, code);
    try {
      await import(pathToFileURL(file).href);
    } catch (error) {
      if (typeof error?.stack === "string") error.stack = error.stack.replaceAll(pathToFileURL(file).href, PROGRAM);
      throw error;
    } finally {
      fs.rmSync(file, { force: true });
    }
  }

  function show(value, main) {
    const formats = { "text/plain": util.inspect(value) };
    if (typeof value === "object" && value !== null && !util.types.isProxy(value)) {
      try {
        const plain = JSON.stringify(value);
        if (plain !== undefined && (Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype)) {
          formats["application/json"] = JSON.parse(plain);
        }
      } catch {
        // it contains itself, or what JSON cannot hold
      }
    }
    send({ kind: "result", main, formats });
  }

  /** Show something on the way: a value, or formats of one by their MIME types. */
  globalThis.display = (value) => {
    const isFormats = value !== null && typeof value === "object" && Object.keys(value).some((key) => key.includes("/"));
    if (isFormats) send({ kind: "result", main: false, formats: value });
    else show(value, false);
  };

  function fail(error) {
    if (running === null || running.failed) return;
    running.failed = true;
    if (error?.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED") return interrupted();
    const isError = util.types.isNativeError(error);
    const name = isError ? error.name : "Thrown";
    const value = isError ? String(error.message) : util.inspect(error);
    const stack = isError && typeof error.stack === "string" ? ownPart(error.stack) : `${name}: ${value}`;
    send({ kind: "error", name: String(name), value, traceback: stack });
  }

  function interrupted() {
    send({ kind: "error", name: "Interrupted", value: "", traceback: "Interrupted" });
  }

  /** A stack without the frames of this file and of Node's console. */
  function ownPart(stack) {
    return stack
      .split("\n")
      .filter((line) => !/^\s+at .*(\[eval\]|node:repl|node:internal|node:vm|node:domain|node:events)/.test(line))
      .join("\n");
  }

  const busy = () => process.getActiveResourcesInfo().filter((kind) => !SERVERS.has(kind));

  /** Wait until nothing is left to do; where a session's servers are all that is left, they may stay. */
  function watch() {
    if (running === null || running.watch !== undefined) return;
    running.watch = setInterval(() => {
      if (running?.persistent && busy().length <= running.left) end();
    }, LOOK_MS);
    running.watch.unref();
  }

  process.on("beforeExit", end);
  process.on("uncaughtException", (error) => {
    fail(error);
    end();
  });
  process.on("SIGINT", () => {
    if (running === null) return;
    if (!running.failed) interrupted();
    running.failed = true;
    end();
  });

  function end() {
    if (running === null) return;
    clearInterval(running.watch);
    for (const name of running.names) {
      if (name in running.before) process.env[name] = running.before[name];
      else delete process.env[name];
    }
    running = null;
    channel.ref();
    send({ kind: "ended" });
  }

  let buffered = "";
  const channel = new net.Socket({ fd: IN, readable: true, writable: false });
  channel.setEncoding("utf8");
  channel.on("data", (data) => {
    buffered += data;
    for (let at; (at = buffered.indexOf("\n")) >= 0; ) {
      const line = buffered.slice(0, at);
      buffered = buffered.slice(at + 1);
      begin(JSON.parse(line));
    }
  });
  channel.on("close", () => exit(0));
  console_.context.require ??= createRequire(path.join(process.cwd(), "program.js"));
  send({ kind: "ready" });
})();
