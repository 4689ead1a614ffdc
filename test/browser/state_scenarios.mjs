// The states of the page and the ways to use it: signing in and out, empty, failing, loading, colours,
// phones, keyboards, screen readers.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cards, choose, settled, shot, then } from "./reading.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What axe finds wrong with the page as it is now. */
async function violations(page) {
  await page.evaluate(axe);
  const { violations: found } = await page.evaluate(() => globalThis.axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  return found.map((one) => `${one.impact} ${one.id}: ${one.help}\n  ${one.nodes.map((node) => node.html.slice(0, 160)).join("\n  ")}`);
}

async function accessible(page, where) {
  const found = await violations(page);
  assert.deepEqual(found, [], `${where}:\n${found.join("\n")}`);
}

async function noSidewaysScroll(page) {
  const [wide, has] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= has, `the page is ${wide} wide in a window of ${has}`);
}

/** The token leaves the address at once, stays in the tab, and goes with signing out. */
export async function token(visit, { user }, site) {
  await visit({ user }, async (page) => {
    await settled(page);
    assert.equal(page.url(), site.url);
    assert.equal(await page.evaluate(() => sessionStorage.getItem("token_usage.token")), site.tokens[user]);
    assert.equal(await page.evaluate(() => JSON.stringify(localStorage)), "{}");
    assert.equal(await page.locator("#who").textContent(), `User ${user}`);
    await page.reload();
    await settled(page);
    await page.locator("#sign-out").click();
    await page.locator("#sign-in").waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    assert.equal(await page.locator("#dashboard").isVisible(), false);
    assert.equal(await page.locator(".summary-card").count(), 0);
    await page.reload();
    await page.locator("#sign-in").waitFor();
  });
}

/** Without a token nothing is asked; the field takes one. */
export async function signIn(visit, { user }, site) {
  await visit({}, async (page) => {
    const asked = [];
    page.on("request", (request) => request.url().includes("/api/") && asked.push(request.url()));
    await page.locator("#sign-in").waitFor();
    await page.waitForTimeout(300);
    assert.deepEqual(asked, []);
    assert.equal(await page.evaluate(() => document.activeElement.id), "token");
    await accessible(page, "signing in");
    await shot(page, site, "sign-in");
    await page.locator("#token").fill(site.tokens[user]);
    await page.keyboard.press("Enter");
    await settled(page);
    assert.equal(await page.locator("#token").inputValue(), "");
    assert.ok(!page.url().includes(site.tokens[user]));
  });
}

/** A token that is bad or has expired brings the sign-in back, with what the service said, once. */
export async function refused(visit, { token: given }, site) {
  await visit({ token: given, expected: [401] }, async (page) => {
    await page.locator("#sign-in-message").waitFor();
    assert.notEqual(await page.locator("#sign-in-message").textContent(), "");
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    const asked = [];
    page.on("request", (request) => request.url().includes("/api/") && asked.push(request.url()));
    await page.waitForTimeout(500);
    assert.deepEqual(asked, []);
    await shot(page, site, "refused");
  });
}

/** A token that expires while the page is open. */
export async function expires(visit, { token: given, seconds }) {
  await visit({ token: given, expected: [401] }, async (page) => {
    await settled(page);
    await page.waitForTimeout(seconds * 1000);
    await page.locator("#refresh").click();
    await page.locator("#sign-in-message").waitFor();
    assert.equal(await page.locator(".summary-card").count(), 0);
  });
}

export async function empty(visit, { user }, site) {
  await visit({ user, width: 1280, scheme: "dark" }, async (page) => {
    await settled(page);
    for (const part of ["history", "agents", "models", "requests"]) {
      assert.equal(await page.locator(`#${part}`).getAttribute("data-state"), "empty", part);
      assert.match(await page.locator(`#${part} .empty`).textContent(), /^No requests/);
    }
    assert.equal(await page.locator("canvas").count(), 0);
    for (const card of Object.values(await cards(page))) {
      assert.deepEqual([card.cost_usd, card.shown[0], card.requests_count], ["0", "$0.00", "0"]);
    }
    assert.ok(await page.locator("#csv").isDisabled());
    await accessible(page, "empty");
    await shot(page, site, "empty");
  });
}

/** A user none of whose requests has a price: no cost of 0 anywhere. */
export async function unpriced(visit, { user, requests }, site) {
  await visit({ user }, async (page) => {
    await settled(page);
    const { all_time: card } = await cards(page);
    assert.equal(card.cost_usd, null);
    assert.match(card.text, /Unpriced/);
    assert.equal(card.unpriced_text, `${requests} unpriced`);
    assert.match(await page.locator("#agents .content").textContent(), /nothing to draw/);
    assert.deepEqual(await page.locator("#requests td:nth-child(7)").allTextContents(), Array(requests).fill("unpriced"));
    await shot(page, site, "unpriced");
    await choose(page, "measure", "total_tokens");
    assert.equal(await page.locator("canvas").count(), 3);
  });
}

/** While the service takes its time, the page says so; a slow old answer does not overtake a new one. */
export async function loading(visit, { user }) {
  await visit({ user: null }, async (page) => {
    await page.locator("#sign-in").waitFor();
    let slow = 400;
    await page.route("**/api/v1/**", async (route) => {
      await new Promise((resolve) => setTimeout(resolve, slow));
      await route.continue().catch(() => {});
    });
    await page.evaluate((given) => { location.hash = `token=${given}`; }, user);
    await page.locator("#summary .placeholder").waitFor();
    assert.equal(await page.locator("#history").getAttribute("aria-busy"), "true");
    await settled(page);
    assert.equal(await page.locator(".placeholder").count(), 0);
    slow = 700;
    await page.locator("#days label", { hasText: "365 days" }).click();
    await page.waitForTimeout(100);
    slow = 0;
    await page.locator("#days label", { hasText: "7 days" }).first().click();
    await settled(page);
    await page.waitForTimeout(900);
    assert.equal(await page.locator("#history tbody tr").count(), 7);
  });
}

/** The database is away: every part says so, none shows a zero. Python brings it back when `ready` is there. */
export async function away(visit, { user, expected }, site) {
  await visit({ user, expected }, async (page) => {
    await page.waitForFunction(() => document.querySelectorAll(".notice.error").length === 5, null, { timeout: 60_000 });
    assert.equal(await page.locator(".summary-card").count(), 0);
    assert.equal(await page.locator("canvas").count(), 0);
    for (const text of await page.locator(".notice.error p").allTextContents()) {
      assert.notEqual(text, "");
    }
    assert.equal(await page.locator("#sign-in").isVisible(), false);
    await accessible(page, "away");
    await shot(page, site, "away");
  });
}

/** Away and back: "Try again" of each part, without loading the page anew. */
export async function recovers(visit, { user, expected, files }) {
  const { existsSync, writeFileSync } = await import("node:fs");
  await visit({ user, expected }, async (page) => {
    await settled(page);
    writeFileSync(files.opened, "");
    await waitFor(() => existsSync(files.away));
    await page.locator("#refresh").click();
    await page.waitForFunction(() => document.querySelectorAll(".notice.error").length === 5, null, { timeout: 60_000 });
    writeFileSync(files.failed, "");
    await waitFor(() => existsSync(files.back));
    for (const part of ["summary", "history", "agents", "models", "requests"]) {
      await page.locator(`#${part} .notice button`).click();
      await page.locator(`#${part}[data-state="ready"]`).waitFor({ timeout: 30_000 });
    }
    assert.equal(await page.locator(".notice.error").count(), 0);
    assert.equal(await page.locator(".summary-card").count(), 3);
  });
}

async function waitFor(there) {
  const until = Date.now() + 60_000;
  while (!there()) {
    if (Date.now() > until) {
      throw new Error("the other side did not come");
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Light, dark and the switch; contrast in both. */
export async function colours(visit, { user }, site) {
  const ground = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const found = {};
  for (const scheme of ["light", "dark"]) {
    await visit({ user, scheme }, async (page) => {
      await settled(page);
      found[scheme] = await ground(page);
      await accessible(page, scheme);
      await page.locator("#history summary").click();
      await accessible(page, `${scheme}, table open`);
      await page.locator("#history summary").click();
      await shot(page, site, scheme);
      const other = scheme === "light" ? "dark" : "light";
      await page.locator("#theme label", { hasText: new RegExp(other, "i") }).click();
      found[`${scheme} switched`] = await ground(page);
      await page.reload();
      await settled(page);
      assert.equal(await ground(page), found[`${scheme} switched`], "the switch is forgotten");
      await page.locator("#theme label", { hasText: "Auto" }).click();
      assert.equal(await ground(page), found[scheme]);
    });
  }
  assert.notEqual(found.light, found.dark);
  assert.equal(found["light switched"], found.dark);
  assert.equal(found["dark switched"], found.light);
}

/** Phones and tablets, and a desk with large type: no scrolling sideways, everything within reach. */
export async function widths(visit, _, site) {
  for (const user of Object.keys(site.tokens)) {
    await visit({ user, width: 360, height: 780 }, async (page) => {
      await settled(page);
      for (const [width, colorScheme] of [[360, "light"], [360, "dark"], [412, "dark"], [768, "light"], [1024, "dark"]]) {
        await page.setViewportSize({ width, height: 780 });
        await page.emulateMedia({ colorScheme });
        await noSidewaysScroll(page);
        const outside = await page.locator("button:visible, select:visible, input[type=date]:visible, .segments label:visible")
          .evaluateAll((all) => all.filter((one) => {
            const { left, right } = one.getBoundingClientRect();
            return left < 0 || right > document.documentElement.clientWidth;
          }).map((one) => one.outerHTML.slice(0, 80)));
        assert.deepEqual(outside, [], `outside a window of ${width}`);
        if (width === 360) {
          await page.waitForTimeout(100);
          await shot(page, site, `phone-${colorScheme}-${user}`);
        }
        await page.locator("#history summary").click();
        await noSidewaysScroll(page);
      }
    });
  }
  await visit({ user: Object.keys(site.tokens)[0], width: 360, height: 780 }, async (page) => {
    await settled(page);
    await accessible(page, "phone");
  });
  await visit({ width: 360, height: 640 }, async (page) => {
    await page.locator("#sign-in").waitFor();
    await noSidewaysScroll(page);
  });
}

/** Without a mouse. */
export async function keyboard(visit, { user }) {
  await visit({ user }, async (page) => {
    await settled(page);
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className);
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await focused(), "main");
    await page.keyboard.press("Tab");
    // A card's cost: its digits show on focus.
    assert.match(await focused(), /exact/);
    assert.equal(await page.evaluate(() => getComputedStyle(document.activeElement, "::after").display), "block");
    await page.locator("#days input:checked").focus();
    await then(page, () => page.keyboard.press("ArrowRight"));
    assert.equal(await page.locator("#days input:checked").inputValue(), "90");
    assert.equal(await page.locator("#history tbody tr").count(), 90);
    await page.locator("#history summary").focus();
    await page.keyboard.press("Enter");
    assert.ok(await page.locator("#history details").evaluate((one) => one.open));
    // The focus stays where the work is.
    await page.locator("#next").focus();
    await then(page, () => page.keyboard.press("Enter"));
    assert.equal(await focused(), "next");
    assert.match(await page.locator("#announcer").textContent(), /^26–50 of /);
    // Everything that can be used can be reached, and shows where the focus is.
    await page.evaluate(() => document.activeElement.blur());
    const seen = new Set();
    for (let step = 0; step < 120; step += 1) {
      await page.keyboard.press("Tab");
      const [id, outline] = await page.evaluate(() => {
        const one = document.activeElement;
        const drawn = one.matches(".segments input") ? one.nextElementSibling : one;
        return [one.id || one.name || one.className, getComputedStyle(drawn).outlineStyle];
      });
      if (id) {
        seen.add(id);
        assert.notEqual(outline, "none", `the focus on ${id} cannot be seen`);
      }
    }
    for (const id of ["zone", "theme", "refresh", "sign-out", "days", "measure", "history-agent", "requests-agent", "from", "to", "limit",
      "clear", "csv", "next", "scroller"]) {
      assert.ok(seen.has(id), `${id} is not reached by the keyboard: ${[...seen].join(" ")}`);
    }
  });
}

/** The picture of the README. */
export async function picture(visit, { user, path, zone }) {
  await visit({ user, zone, width: 1280, height: 860 }, async (page) => {
    await settled(page);
    await choose(page, "days", "90");
    await page.waitForTimeout(200);
    const bottom = await page.locator(".columns").evaluate((one) => one.getBoundingClientRect().bottom + window.scrollY);
    await page.screenshot({ path, fullPage: true, clip: { x: 0, y: 0, width: 1280, height: Math.ceil(bottom) + 20 } });
  });
}

/** The service ends while the page is open. */
export async function unreachable(visit, { user, expected, pid }) {
  await visit({ user, expected }, async (page) => {
    await settled(page);
    process.kill(pid, "SIGTERM");
    await page.waitForTimeout(1500);
    await page.locator("#refresh").click();
    await page.waitForFunction(() => document.querySelectorAll(".notice.error").length === 5);
    for (const text of await page.locator(".notice.error p").allTextContents()) {
      assert.equal(text, "The service cannot be reached.");
    }
  });
}
