// Drives Chromium for the tests: reads one scenario a line from standard input, runs it in a page of
// its own, and writes how it went as one line. What a scenario finds wrong is thrown.
//
// Whatever a scenario does, its page must have no error on the console, no uncaught exception and no
// request to another host; a scenario that makes the service say no names the status that it expects.
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import * as page from "./page_scenarios.mjs";
import * as states from "./state_scenarios.mjs";
import * as docs from "./docs_scenarios.mjs";

const scenarios = { ...page, ...states, ...docs };

const browser = await chromium.launch({
  executablePath: process.env.TOKEN_USAGE_CHROMIUM ?? "/usr/bin/chromium",
  // The sandbox needs rights that root in a container has not got; the rest keeps Chromium from
  // talking to its maker.
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb",
    "--font-render-hinting=none"],
});

/** Opens a page at `address` of the site and hands it to `work`, watched. */
async function visit(site, options, work) {
  const { address = "", user = null, token = site.tokens[user] ?? null, zone = "UTC", scheme = "light", width = 1280, height = 900,
    expected = [] } = options;
  const context = await browser.newContext({
    viewport: { width, height }, colorScheme: scheme, timezoneId: zone, locale: "en-US", acceptDownloads: true,
    reducedMotion: "reduce",
  });
  const wrong = [];
  try {
    const opened = await context.newPage();
    opened.setDefaultTimeout(20_000);
    opened.on("console", (message) => {
      const text = message.text();
      const failed = /Failed to load resource: the server responded with a status of (\d+)/.exec(text);
      const refused = /Failed to load resource: net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE)/.test(text);
      if (failed && expected.includes(Number(failed[1]))) {
        return;
      }
      if (refused && expected.includes(0)) {
        return;
      }
      if (message.type() === "error" || message.type() === "warning") {
        wrong.push(`console ${message.type()}: ${text}`);
      }
    });
    opened.on("pageerror", (error) => wrong.push(`page error: ${error.stack ?? error}`));
    context.on("request", (request) => {
      const url = request.url();
      if (!url.startsWith(site.url) && !/^(data|blob):/.test(url)) {
        wrong.push(`request to another host: ${url}`);
      }
    });
    await opened.goto(site.url + address + (token ? `#token=${token}` : ""));
    const result = await work(opened);
    if (wrong.length > 0) {
      throw new Error(`the page did what it must not:\n${wrong.join("\n")}`);
    }
    return result;
  } catch (error) {
    const [opened] = context.pages();
    if (opened && site.failures) {
      await opened.screenshot({ path: `${site.failures}/failed-${Date.now()}.png`, fullPage: true }).catch(() => {});
    }
    if (wrong.length > 0) {
      error.stack += `\nalso: ${wrong.join("\n")}`;
    }
    throw error;
  } finally {
    await context.close();
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { scenario, site, args } = JSON.parse(line);
  let answer;
  try {
    const result = await scenarios[scenario]((options, work) => visit(site, options, work), args, site);
    answer = { ok: true, result: result ?? null };
  } catch (error) {
    answer = { ok: false, error: String(error.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
