declare module "virtual:recorder" {
  /** Script of the sandbox's worker. */
  const source: string;
  export default source;
}
