// Validates custom resources, a JSON list on stdin: by the models of the npm packages @kubernetes-models/cert-manager and
// @kubernetes-models/prometheus-operator, made from the CRDs, and by their types with `tsc --strict`, which also finds
// unknown fields. NODE_PATH is the directory of the packages. The last line of the output is the number of objects.
"use strict";

const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const PACKAGES = {
  "cert-manager.io": "@kubernetes-models/cert-manager",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

const modules = process.env.NODE_PATH.split(path.delimiter).find((directory) =>
  fs.existsSync(path.join(directory, "typescript")),
);

main().catch((error) => {
  console.log(error);
  process.exit(1);
});

async function main() {
  const things = JSON.parse(fs.readFileSync(0, "utf8"));
  const problems = [...(await byModels(things)), ...byTypes(things)];
  if (problems.length > 0) {
    console.log(problems.join("\n"));
    process.exit(1);
  }
  console.log(`${things.length}`);
}

// Returns the directory of the models of an object's API version.
function packageOf(thing) {
  const [group, version] = thing.apiVersion.split("/");
  if (!PACKAGES[group]) {
    throw new Error(`no models for ${thing.apiVersion}`);
  }
  return `${PACKAGES[group]}/${group}/${version}`;
}

async function byModels(things) {
  const problems = [];
  for (const thing of things) {
    // By its file: the import of a package ignores NODE_PATH.
    const models = await import(path.join(modules, packageOf(thing), "index.js"));
    const Model = models[thing.kind];
    if (!Model) {
      problems.push(`${thing.apiVersion} has no ${thing.kind}`);
      continue;
    }
    try {
      new Model(thing).validate();
    } catch (error) {
      problems.push(`${thing.kind}/${thing.metadata.name}: ${error.message}`);
    }
  }
  return problems;
}

function byTypes(things) {
  const lines = things.map(
    (thing, index) =>
      `import type { I${thing.kind} as I${index} } from "${packageOf(thing)}";\n` +
      `export const object${index}: I${index} = ${JSON.stringify(thing, null, 1)};\n`,
  );
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "crds-"));
  try {
    fs.symlinkSync(modules, path.join(directory, "node_modules"));
    fs.writeFileSync(path.join(directory, "package.json"), '{ "type": "module" }');
    fs.writeFileSync(path.join(directory, "crds.ts"), lines.join(""));
    const options = ["--strict", "--noEmit", "--skipLibCheck", "--module", "nodenext"];
    execFileSync(path.join(modules, ".bin", "tsc"), [...options, "crds.ts"], { cwd: directory, encoding: "utf8" });
    return [];
  } catch (error) {
    return [error.stdout || error.message];
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
}
