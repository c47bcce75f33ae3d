// Makes a component of a JavaScript or TypeScript policy: SOURCE WIT-FOLDER TYPES-FOLDER OUT. `gatepost plugin build` leaves it in the project's
// `build/`, from where its packages are found, and calls it there.
import { spawnSync } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { componentize } from "@bytecodealliance/componentize-js";

const worldName = "policy";
const [source, witPath, typesPath, out] = process.argv.slice(2);

try {
  let text = await readFile(source, "utf8");
  if (source.endsWith(".ts")) text = await fromTypeScript(text);
  else checkSyntax();
  // A policy has no HTTP; without these two nothing of wasi:http is imported.
  const { component } = await componentize(text, { witPath, worldName, disableFeatures: ["http", "fetch-event"] });
  await writeFile(out, component);
} catch (error) {
  console.error(error?.message ?? error);
  process.exit(1);
}

// componentize-js does not say where an error of syntax is; node does.
function checkSyntax() {
  const { status } = spawnSync(process.execPath, ["--check", source], { stdio: "inherit" });
  if (status !== 0) process.exit(1);
}

// Checks the source against the interface's own types, which are left for editors too.
async function fromTypeScript(text) {
  const { default: ts } = await import("typescript");
  const { types } = await import("@bytecodealliance/jco");
  const declarations = await types(witPath, { worldName, guest: true });
  for (const [name, bytes] of Object.entries(declarations)) {
    const path = join(typesPath, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, bytes);
  }
  const options = {
    target: ts.ScriptTarget.ES2022,
    // The declarations of resources have Symbol.dispose; TextEncoder and console are in the DOM's.
    lib: ["lib.es2022.d.ts", "lib.esnext.disposable.d.ts", "lib.dom.d.ts"],
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    strict: true,
    noEmit: true,
    types: [],
  };
  const program = ts.createProgram([source, join(typesPath, `${worldName}.d.ts`)], options);
  const wrong = ts.getPreEmitDiagnostics(program);
  if (wrong.length > 0) {
    const host = { getCurrentDirectory: process.cwd, getCanonicalFileName: (name) => name, getNewLine: () => "\n" };
    process.stderr.write(ts.formatDiagnostics(wrong, host));
    process.exit(1);
  }
  return ts.transpileModule(text, { compilerOptions: { target: options.target, module: options.module } }).outputText;
}
