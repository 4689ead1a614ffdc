// Reads the page as a user sees it: waits until it is quiet, then takes its figures out of it.

/** Waits until no part of the page is loading. */
export async function settled(page) {
  await page.waitForFunction(() => {
    const dashboard = document.querySelector("#dashboard");
    return dashboard && !dashboard.hidden && !document.querySelector("[aria-busy]")
      && [...document.querySelectorAll("#summary, #history, #agents, #models, #requests")].every((part) => part.dataset.state);
  });
}

/** Does something and waits for what it loads. */
export async function then(page, action) {
  await action();
  await page.waitForTimeout(20);
  await settled(page);
}

export async function choose(page, group, value) {
  await then(page, () => page.locator(`#${group} label`, { has: page.locator(`input[value="${value}"]`) }).click());
}

export async function chooseZone(page, zone) {
  await then(page, () => page.locator("#zone").selectOption(zone));
}

/** The three cards: what is shown, and the exact value behind it. */
export async function cards(page) {
  return page.locator(".summary-card").evaluateAll((all) => Object.fromEntries(all.map((card) => {
    const [tokens, requests] = [...card.querySelectorAll(".figures data")];
    const amounts = [...card.querySelectorAll(".amounts data")];
    return [card.dataset.period, {
      cost_usd: amounts[0]?.value ?? null,
      cost_rub: amounts[1]?.value ?? null,
      shown: amounts.map((one) => one.firstChild.data),
      exact: amounts.map((one) => one.dataset.exact),
      spoken: amounts.map((one) => one.textContent),
      unpriced_text: card.querySelector(".badge")?.textContent ?? "",
      text: card.textContent,
      total_tokens: tokens.value,
      tokens_title: tokens.title,
      requests_count: requests.value,
    }];
  })));
}

/** The sums above the chart, and each day of its table, the earliest first. */
export async function historyOf(page) {
  return page.locator("#history").evaluate((part) => ({
    totals: Object.fromEntries([...part.querySelectorAll(".totals data")].map((one) => [one.dataset.total, one.value])),
    label: part.querySelector("canvas")?.getAttribute("aria-label") ?? "",
    days: [...part.querySelectorAll("tbody tr")].reverse().map((row) => {
      const [usd, rub, total, prompt, completion, requests, unpriced] = [...row.querySelectorAll("td")].map((cell) => cell.dataset.value);
      return { date: row.dataset.date, total_tokens: total, prompt_tokens: prompt, completion_tokens: completion, cost_usd: usd, cost_rub: rub,
        requests_count: requests, unpriced_count: unpriced };
    }),
  }));
}

function rowReader() {
  return (row) => {
    const [share, usd, rub, tokens, requests, mean] = [...row.querySelectorAll("td")];
    return { share: share.textContent, cost_usd: usd.dataset.value, cost_rub: rub.dataset.value, usd_shown: usd.textContent, usd_title: usd.title,
      total_tokens: tokens.dataset.value, requests_count: requests.dataset.value, unpriced_count: requests.dataset.unpriced, mean: mean.textContent };
  };
}

export async function agentsOf(page) {
  return page.locator("#agents").evaluate((part, reader) => {
    const read = new Function(`return ${reader}`)();
    return [...part.querySelectorAll("tbody tr")].map((row) => ({ agent_id: row.dataset.agent, ...read(row) }));
  }, String(rowReader()));
}

export async function modelsOf(page) {
  return page.locator("#models").evaluate((part, reader) => {
    const read = new Function(`return ${reader}`)();
    return [...part.querySelectorAll("tbody")].map((group) => ({
      provider: group.dataset.provider,
      ...read(group.querySelector("tr.group")),
      models: [...group.querySelectorAll("tr[data-model]")].map((row) => ({ ai_model: row.dataset.model, ...read(row) })),
    }));
  }, String(rowReader()));
}

/** The rows of the list that are on the page now. */
export async function requestsOf(page) {
  return page.locator("#requests tbody tr").evaluateAll((rows) => rows.map((row) => {
    const cells = [...row.querySelectorAll("td")];
    const value = (index) => cells[index].dataset.value;
    return {
      id: row.dataset.id,
      created_at: cells[0].querySelector("time").dateTime,
      time_shown: cells[0].textContent,
      agent_id: cells[1].firstChild.data,
      model_shown: cells[2].textContent,
      total_tokens: value(3), prompt_tokens: value(4), completion_tokens: value(5),
      cost_usd: value(6), cost_rub: value(7), usd_shown: cells[6].textContent,
    };
  }));
}

export async function shot(page, site, name) {
  await page.screenshot({ path: `${site.screenshots}/${site.name}-${name}.png`, fullPage: true });
}
