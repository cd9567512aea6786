import { type HashOptions, Image } from "chalkcompute";

const image: Image = Image.debianSlim("3.12")
  .pipInstall(["requests", "pandas>=2.0"])
  .runCommands("apt-get update && apt-get install -y git curl")
  .workdir("/app")
  .env({ PROJECT_ROOT: "/app" });

const options: HashOptions = { base: process.argv[2] };
const hash: string = await image.hash(options);
console.log(hash);
