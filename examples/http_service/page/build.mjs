// Bundles the page into dist/: index.html, app.js, app.css, the fonts, and Swagger UI in docs/. What is
// there from an earlier build goes.
import { cp, mkdir, rm } from "node:fs/promises";
import { build } from "esbuild";

await rm("dist", { recursive: true, force: true });
await mkdir("dist/docs", { recursive: true });

const browsers = ["chrome123", "edge123", "firefox120", "safari17.5"];
await build({
  entryPoints: { app: "src/app.ts", "docs/docs": "src/docs/docs.ts" },
  outdir: "dist",
  bundle: true,
  format: "esm",
  minify: true,
  target: browsers,
  loader: { ".woff2": "file" },
  assetNames: "[name]",
  legalComments: "linked",
  logLevel: "warning",
});

await cp("src/index.html", "dist/index.html");
await cp("src/icon.svg", "dist/icon.svg");
await cp("src/docs/index.html", "dist/docs/index.html");
for (const file of ["swagger-ui-bundle.js", "swagger-ui-bundle.js.LICENSE.txt", "swagger-ui.css", "LICENSE", "NOTICE"]) {
  await cp(`node_modules/swagger-ui-dist/${file}`, `dist/docs/${file}`);
}
