// Parses LogQL queries, a JSON list on stdin, by the grammar of Grafana's query editor. NODE_PATH is the directory of the
// packages. Prints the queries that it does not accept.
"use strict";

const fs = require("node:fs");
const { parser } = require("@grafana/lezer-logql");

const queries = JSON.parse(fs.readFileSync(0, "utf8"));
const refused = queries.filter((query) => {
  let bad = false;
  parser.parse(query).iterate({ enter: (node) => void (bad ||= node.type.isError) });
  return bad;
});
if (refused.length > 0) {
  console.log(refused.join("\n"));
  process.exit(1);
}
