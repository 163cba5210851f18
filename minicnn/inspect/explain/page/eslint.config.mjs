// npx eslint@9 -c minicnn/inspect/explain/page/eslint.config.mjs minicnn/inspect/explain/page
const browser = [
  "document",
  "matchMedia",
  "requestAnimationFrame",
  "atob",
  "innerHeight",
  "innerWidth",
  "fetch",
  "setTimeout",
];

export default [
  {
    files: ["**/*.js"],
    languageOptions: { globals: Object.fromEntries(browser.map((name) => [name, "readonly"])) },
    rules: {
      "no-undef": "error",
      "no-unused-vars": ["error", { args: "after-used" }],
      "no-redeclare": "error",
      "no-shadow": "off",
      "no-dupe-keys": "error",
      "no-unreachable": "error",
      "prefer-const": "error",
      eqeqeq: "error",
      "no-var": "error",
      "no-duplicate-imports": "error",
      "max-len": ["error", { code: 120, ignoreStrings: true, ignoreTemplateLiterals: true }],
    },
  },
];
