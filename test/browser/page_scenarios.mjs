// The figures of the page: cards, history, breakdowns, the list, its filters and its CSV file.
import assert from "node:assert/strict";
import {
  agentsOf, cards, choose, chooseZone, historyOf, modelsOf, requestsOf, settled, shot, then,
} from "./reading.mjs";

/** All figures of a user in several zones and periods; Python compares them with the ledger's. */
export async function figures(visit, { user, views }, site) {
  const [[zone]] = views;
  return visit({ user, zone }, async (page) => {
    await settled(page);
    const found = [];
    for (const [chosen, days] of views) {
      if (chosen !== zone) {
        await chooseZone(page, chosen);
      }
      assert.equal(await page.locator("#zone").inputValue(), chosen);
      for (const period of days) {
        await choose(page, "days", period);
        found.push({ zone: chosen, days: period, cards: await cards(page), history: await historyOf(page), agents: await agentsOf(page),
          models: await modelsOf(page) });
      }
    }
    await shot(page, site, `figures-${user}`);
    return found;
  });
}

/** The other measures are drawn from what is there already, without asking again. */
export async function measures(visit, { user }) {
  return visit({ user }, async (page) => {
    await settled(page);
    const asked = [];
    page.on("request", (request) => request.url().includes("/api/") && asked.push(request.url()));
    const labels = {};
    for (const measure of ["cost_rub", "total_tokens", "requests_count", "cost_usd"]) {
      await choose(page, "measure", measure);
      labels[measure] = (await historyOf(page)).label;
    }
    assert.deepEqual(asked, []);
    return labels;
  });
}

/** The charts draw something in the colours of the page. */
export async function charts(visit, { user }) {
  await visit({ user }, async (page) => {
    await settled(page);
    await page.waitForTimeout(200);
    const painted = await page.locator("canvas").evaluateAll((all) => all.map((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const colours = new Set();
      for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] === 255) {
          colours.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
        }
      }
      return { colours: colours.size, accent: colours.has("90,97,224"), label: canvas.getAttribute("aria-label") };
    }));
    assert.equal(painted.length, 3);
    for (const chart of painted) {
      assert.ok(chart.accent, `${chart.label}: the first colour of the palette is not in it`);
      assert.ok(chart.label.includes(" in all."), chart.label);
    }
    // The tooltip on a day tells all digits.
    await page.locator("#history canvas").hover();
  });
}

export async function historyByAgent(visit, { user, agents }) {
  return visit({ user }, async (page) => {
    await settled(page);
    const found = {};
    for (const agent of agents) {
      await then(page, () => page.locator("#history-agent").selectOption(agent));
      found[agent] = await historyOf(page);
    }
    const offered = await page.locator("#history-agent option").evaluateAll((all) => all.map((one) => one.value));
    return { found, offered };
  });
}

/** Forward to the last page and back to the first. */
export async function paging(visit, { user, limit }) {
  return visit({ user }, async (page) => {
    await settled(page);
    await then(page, () => page.locator("#limit").selectOption(String(limit)));
    const pages = [];
    const counts = [];
    const take = async () => {
      pages.push((await requestsOf(page)).map((row) => row.id));
      counts.push(await page.locator("#rows").textContent());
    };
    assert.ok(await page.locator("#previous").isDisabled());
    await take();
    while (await page.locator("#next").isEnabled()) {
      await then(page, () => page.locator("#next").click());
      await take();
    }
    const forward = pages.length;
    for (let left = forward - 1; left > 0; left -= 1) {
      await then(page, () => page.locator("#previous").click());
      assert.deepEqual((await requestsOf(page)).map((row) => row.id), pages[left - 1]);
      assert.equal(await page.locator("#rows").textContent(), counts[left - 1]);
    }
    assert.ok(await page.locator("#previous").isDisabled());
    return { ids: pages.flat(), counts };
  });
}

/** The list with filters, in a zone: the rows of the first page, and how many there are. */
export async function filtered(visit, { user, zone, filters }) {
  return visit({ user, zone }, async (page) => {
    await settled(page);
    await then(page, () => page.locator("#limit").selectOption("100"));
    const found = [];
    for (const { agent = "", from = "", to = "" } of filters) {
      await then(page, () => page.locator("#requests-agent").selectOption(agent));
      await then(page, () => page.locator("#from").fill(from));
      await then(page, () => page.locator("#to").fill(to));
      found.push({ rows: await requestsOf(page), count: await page.locator("#rows").textContent(),
        state: await page.locator("#requests").getAttribute("data-state") });
    }
    // A first day after the last is told before anything is asked.
    const asked = [];
    page.on("request", (request) => asked.push(request.url()));
    await page.locator("#to").fill("2020-01-01");
    await page.locator("#from").fill("2020-01-02");
    await page.locator("#filters-message").waitFor();
    assert.equal(await page.locator("#from").getAttribute("aria-invalid"), "true");
    assert.ok(!asked.some((url) => url.includes("start_date=2020")), asked.join("\n"));
    await then(page, () => page.locator("#clear").click());
    assert.equal(await page.locator("#filters-message").isVisible(), false);
    assert.equal(await page.locator("#from").inputValue(), "");
    return found;
  });
}

/** The CSV file, as it lands on the disk. */
export async function csv(visit, { user, agent = "", path }) {
  await visit({ user }, async (page) => {
    await settled(page);
    if (agent) {
      await then(page, () => page.locator("#requests-agent").selectOption(agent));
    }
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#csv").click()]);
    assert.match(download.suggestedFilename(), /^token-usage-\d{4}-\d\d-\d\d\.csv$/);
    await download.saveAs(path);
    await page.waitForFunction(() => document.querySelector("#csv").textContent === "Download CSV");
    assert.ok(await page.locator("#csv").isEnabled());
  });
}

/** The browser's own zone is the choice until another is made, which then is in the address. */
export async function zoneChoice(visit, { user }) {
  await visit({ user, zone: "Asia/Kathmandu" }, async (page) => {
    await settled(page);
    assert.equal(await page.locator("#zone").inputValue(), "Asia/Kathmandu");
    const offered = await page.locator("#zone option").count();
    assert.ok(offered > 400, `${offered} zones`);
    await chooseZone(page, "America/St_Johns");
    assert.equal(new URL(page.url()).searchParams.get("time_zone"), "America/St_Johns");
    await choose(page, "days", "7");
    await page.reload();
    await settled(page);
    assert.equal(await page.locator("#zone").inputValue(), "America/St_Johns");
    assert.equal(await page.locator("#days input:checked").inputValue(), "7");
    assert.match(await page.locator("#foot").textContent(), /St Johns \(UTC-0[23]:30\)/);
  });
}

/** Odd names are shown as they are: as text. */
export async function oddNames(visit, { user, names }) {
  await visit({ user }, async (page) => {
    await settled(page);
    await choose(page, "days", "365");
    const found = (await agentsOf(page)).map((row) => row.agent_id);
    for (const name of names) {
      assert.ok(found.includes(name), `${name} is not in ${found.join(" | ")}`);
    }
    assert.equal(await page.locator("main img").count(), 0);
  });
}
