// What `cargo xtask test` tells the suites.

/** Value of an environment variable that must be set. */
export function variable(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; run this by \`cargo xtask test\``);
  return value;
}
