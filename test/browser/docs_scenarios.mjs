// Swagger UI: it shows every route of the description and runs each without an error.
import assert from "node:assert/strict";
import { shot } from "./reading.mjs";

const METHODS = ["get", "post", "put", "delete", "patch"];

export async function swagger(visit, { user }, site) {
  // The page's token is in the tab; the documentation takes it from there.
  return visit({ user }, async (page) => {
    await page.locator(".summary-card").first().waitFor();
    await page.goto(`${site.url}docs`);
    await page.locator(".opblock").first().waitFor();
    assert.equal(page.url(), `${site.url}docs/`);
    const description = await page.evaluate(async () => (await fetch("../openapi.json")).json());
    assert.match(description.openapi, /^3\.1\./);
    assert.equal(await page.locator(".errors-wrapper").count(), 0);
    await page.locator(".authorization__btn.locked, .authorize.locked, .btn.authorize.locked").first().waitFor({ state: "attached" });

    const ran = {};
    const servers = page.locator(".servers > label > select");
    const bases = description.servers.map((server) => server.url);
    for (const base of bases) {
      await servers.selectOption(base);
      for (const block of await page.locator(".opblock").all()) {
        const method = (await block.locator(".opblock-summary-method").textContent()).trim().toLowerCase();
        const path = await block.locator(".opblock-summary-path").getAttribute("data-path");
        await block.locator(".opblock-summary-control").click();
        await block.locator("button.execute").click();
        const status = block.locator(".live-responses-table .response .response-col_status").first();
        await status.waitFor();
        const asked = await block.locator(".request-url pre").textContent();
        ran[`${base} ${method} ${path}`] = { status: (await status.textContent()).trim().slice(0, 3), asked: asked.trim() };
        await block.locator("button.btn-clear").click();
        await block.locator(".opblock-summary-control").click();
      }
    }
    const operations = bases.flatMap((base) => Object.entries(description.paths).flatMap(([path, item]) =>
      Object.keys(item).filter((key) => METHODS.includes(key)).map((method) => `${base} ${method} ${path}`)));
    assert.deepEqual(Object.keys(ran).sort(), operations.sort(), "Swagger UI shows other routes than the description");
    await shot(page, site, "docs");
    return ran;
  });
}
