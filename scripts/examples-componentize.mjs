// Makes a component of a JavaScript or TypeScript policy: SOURCE WIT-FOLDER OUT. build-examples copies it to where its packages are, and calls it there.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";
import ts from "typescript";

const [source, witPath, out] = process.argv.slice(2);
let text = await readFile(source, "utf8");
if (source.endsWith(".ts")) {
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
  text = ts.transpileModule(text, { compilerOptions }).outputText;
}
// A policy has no HTTP; without these two nothing of wasi:http is imported.
const { component } = await componentize(text, { witPath, worldName: "policy", disableFeatures: ["http", "fetch-event"] });
await writeFile(out, component);
