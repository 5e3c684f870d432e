// SPDX-License-Identifier: Apache-2.0
// Tabs as in the ARIA practices: one is in the order of focus, arrow keys choose another.

/** Make tabs of the buttons in `list`. `onShow` is called with the id of the view. */
export function makeTabs(list, onShow) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  function show(tab) {
    for (const one of tabs) {
      const chosen = one === tab;
      one.setAttribute("aria-selected", chosen);
      one.tabIndex = chosen ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !chosen;
    }
    onShow(tab.getAttribute("aria-controls"));
  }
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  for (const tab of tabs) {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      let to = null;
      if (event.key in steps) to = (tabs.indexOf(tab) + steps[event.key] + tabs.length) % tabs.length;
      else if (event.key === "Home") to = 0;
      else if (event.key === "End") to = tabs.length - 1;
      if (to === null) return;
      event.preventDefault();
      tabs[to].focus();
      show(tabs[to]);
    });
  }
  show(tabs[0]);
  return { show: (id) => show(tabs.find((tab) => tab.getAttribute("aria-controls") === id)) };
}
