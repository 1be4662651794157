// Light and dark colours, on every page.

/** Follow the system's colours unless the reader has chosen; changed: called after each change. */
function listenToTheme(changed) {
  const system = matchMedia("(prefers-color-scheme: dark)"), button = document.getElementById("theme");
  let chosen = null;
  try { chosen = localStorage.getItem("paretune-theme"); } catch { /* a page inside another one may keep nothing */ }
  const apply = () => {
    const dark = chosen ? chosen === "dark" : system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
  };
  system.addEventListener("change", () => { apply(); changed(); });
  button.addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("paretune-theme", chosen); } catch { /* as above */ }
    apply(); changed();
  });
  apply();
}
