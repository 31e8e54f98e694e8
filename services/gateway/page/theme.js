/** Light or dark as somebody has chosen here before; without a choice as the system wants it. Runs before the page is drawn. */
try {
  const theme = localStorage.getItem("cortex-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // A browser that keeps nothing has no choice to remember.
}
