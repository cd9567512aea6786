/** What each tab starts with. */

export type TabKey = "javascript" | "toml" | "dockerfile" | "requirements";

export interface TabInfo {
  key: TabKey;
  name: string;
  /** What the text is, for screen readers. */
  label: string;
  example: string;
}

const JAVASCRIPT = `import { Image } from "chalkcompute";

export const image = Image.debianSlim("3.12")
  .pipInstall(["requests", "pandas>=2.0"])
  .runCommands("apt-get update && apt-get install -y git curl")
  .workdir("/app")
  .env({ PROJECT_ROOT: "/app" });
`;

const TOML = `[image]
debian_slim = "3.12"
workdir = "/app"
env = { PROJECT_ROOT = "/app" }

[[step]]
pip_install = ["requests", "pandas>=2.0"]

[[step]]
run_commands = ["apt-get update && apt-get install -y git curl"]
`;

const DOCKERFILE = `FROM python:3.12-slim-bookworm
WORKDIR /app
ENV PROJECT_ROOT=/app
RUN pip install requests 'pandas>=2.0'
RUN apt-get update && apt-get install -y git curl
`;

const REQUIREMENTS = `requests
pandas>=2.0
`;

export const TABS: readonly TabInfo[] = [
  { key: "javascript", name: "JavaScript", label: "JavaScript that makes the image", example: JAVASCRIPT },
  { key: "toml", name: "image.toml", label: "Text of image.toml", example: TOML },
  { key: "dockerfile", name: "Dockerfile", label: "Text of the Dockerfile", example: DOCKERFILE },
  { key: "requirements", name: "requirements.txt", label: "Text of requirements.txt", example: REQUIREMENTS },
];

export function isTab(key: unknown): key is TabKey {
  return TABS.some((tab) => tab.key === key);
}
