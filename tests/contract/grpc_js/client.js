// Deploys ZStack's documented request by grpc-js from the .proto files alone, follows it, reads it, deletes it, and provokes
// an error.
// Arguments: address, directories with .proto files. Prints one JSON object a line; exit code 1 on what it did not expect.
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, ...directories] = process.argv.slice(2);
const definition = loader.loadSync('corral/v1/deploy.proto', {
  includeDirs: directories, longs: Number, enums: String, defaults: false, oneofs: true,
});
const { DistributedModelService } = grpc.loadPackageDefinition(definition).corral.v1;
const client = new DistributedModelService(address, grpc.credentials.createInsecure());
const deadline = () => new Date(Date.now() + 30000);
const node = {
  isInitialNode: false,
  uuid: 'f1e135835fee363c9f57ed8232023886',
  zoneUuid: '7a007a391d483c9f843bf1df4b7e5d8f',
  cpuNum: 8,
  name: 'model-service',
  type: 'VirtualMachine',
  memorySize: 17179869184,
  timeout: 0,
};

function tell(name, value) {
  process.stdout.write(`${JSON.stringify({ [name]: value })}\n`);
}

function follow(call) {
  return new Promise((resolve, reject) => {
    const events = [];
    call.on('data', (response) => events.push(response.event));
    call.on('end', () => resolve(events));
    call.on('error', reject);
  });
}

function ask(method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, { deadline: deadline() }, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

async function main() {
  const events = await follow(client.deployDistributedModelService(
    { modelServices: [node], serviceCreationStrategy: 'parallel', name: 'distributed-model-service' },
    { deadline: deadline() },
  ));
  tell('events', events.map((event) => event.change));
  const group = events.at(-1).final;
  tell('final', { status: group.status, name: group.name });
  const { inventory } = await ask('getInstanceGroup', { uuid: group.uuid });
  tell('read', { uuid: inventory.uuid === group.uuid, memorySize: inventory.instances[0].memorySize });
  const gone = await follow(client.deleteInstanceGroup({ uuid: group.uuid }, { deadline: deadline() }));
  tell('deleted', gone.at(-1).final.status);
  try {
    await ask('getInstanceGroup', { uuid: group.uuid });
    throw new Error('a deleted group was found');
  } catch (error) {
    const details = error.metadata.get('grpc-status-details-bin');
    tell('error', { code: grpc.status[error.code], details: details.length });
  }
}

main().then(() => client.close(), (error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
